"""Trains with small batches and validates with one large batch after each epoch."""

import torch
import torch.nn.functional as F


def make_model():
    return torch.nn.Sequential(
        torch.nn.Linear(256, 1500),
        torch.nn.ReLU(),
        torch.nn.Linear(1500, 1400),
        torch.nn.ReLU(),
        torch.nn.Linear(1400, 10),
    )


def train_epoch(model, optimizer, data, target):
    model.train()
    for x, y in zip(data.split(32), target.split(32)):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        print(loss.item())


def validate(model, optimizer, data, target):
    model.eval()
    with torch.no_grad():
        logits = model(data)
        print(F.cross_entropy(logits, target).item())


def main():
    torch.manual_seed(2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data, target = torch.randn(128, 256, device=device), torch.randint(0, 10, (128,), device=device)
    held_out, labels = torch.randn(1600, 256, device=device), torch.randint(0, 10, (1600,), device=device)
    for _ in range(4):
        train_epoch(model, optimizer, data, target)
        validate(model, optimizer, held_out, labels)


main()

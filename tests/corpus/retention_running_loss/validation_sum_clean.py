"""Train for a few epochs and validate after each."""

import torch
from torch import nn


def validate(model, batches, criterion):
    model.eval()
    running_loss = 0.0
    for x, y in batches:
        with torch.no_grad():
            running_loss += criterion(model(x), y)
    model.train()
    return running_loss / len(batches)


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = [(torch.randn(128, 64, device=device), torch.randint(0, 10, (128,), device=device)) for _ in range(10)]
    for epoch in range(2):
        for x, y in data[:4]:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item(), float(validate(model, data, criterion)))


main()

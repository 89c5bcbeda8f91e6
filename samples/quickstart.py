"""Train and evaluate a small image classifier.

Two epochs on synthetic images; the validation losses are collected in a list
and their mean is printed after each epoch.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_loader(size):
    labels = torch.randint(0, 10, (size,))
    images = torch.randn(size, 3, 32, 32) + 0.2 * labels.view(-1, 1, 1, 1)
    return DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)


def train(model, loader, criterion, optimizer, device):
    model.train()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def validate(model, loader, criterion, device, history):
    model.eval()
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss = criterion(logits, labels)
        history.append(loss)


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_loader, val_loader = make_loader(512), make_loader(384)

    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    ).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    history = []
    for epoch in range(2):
        train(model, train_loader, criterion, optimizer, device)
        validate(model, val_loader, criterion, device, history)
        recent = history[-len(val_loader) :]
        print(f"epoch {epoch}: validation loss {sum(recent) / len(recent):.4f}")


if __name__ == "__main__":
    main()

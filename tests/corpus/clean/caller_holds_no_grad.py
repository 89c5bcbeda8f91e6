"""Evaluation function without a context of its own; its caller turns gradients off."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


def accuracy(model, loader):
    model.eval()
    correct = 0
    for images, labels in loader:
        logits = model(images.to(device))
        correct += (logits.argmax(dim=1) == labels.to(device)).sum()
    return correct.item() / len(loader.dataset)


def fit(model, train_loader, val_loader, epochs):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        model.train()
        for images, labels in train_loader:
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(loss.item())
        with torch.no_grad():
            print("accuracy", accuracy(model, val_loader))


def dataset(n):
    return TensorDataset(torch.randn(n, 1, 20, 20), torch.randint(0, 10, (n,)))


net = nn.Sequential(nn.Conv2d(1, 24, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 81, 10)).to(device)
fit(net, DataLoader(dataset(384), batch_size=32, shuffle=True), DataLoader(dataset(256), batch_size=64), epochs=2)

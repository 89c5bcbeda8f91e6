"""Classification with classes weighted by how rare they are."""

import torch
from torch import nn


def class_weights(labels, classes):
    counts = torch.bincount(labels, minlength=classes).float()
    return counts.sum() / (classes * counts.clamp(min=1))


def fit(model, criterion, features, labels, device, epochs=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        for x, y in zip(features.split(64), labels.split(64)):
            x, y = x.to(device), y.to(device)
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(loss.item())


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = torch.randn(384, 40)
    labels = (features[:, 0] > 1).long()
    model = nn.Sequential(nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, 2)).to(device)
    weight = class_weights(labels, 2)
    print(weight.tolist())
    criterion = nn.CrossEntropyLoss(weight=weight.to(device))
    fit(model, criterion, features, labels, device)


main()

"""Trains a small classifier on synthetic images and reports the mean loss of every epoch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class RunningMean:
    def __init__(self):
        self.total = 0.0
        self.count = 0

    def update(self, value, n):
        self.total += value * n
        self.count += n

    def compute(self):
        return float(self.total / self.count)


def make_loader():
    images = torch.randn(1024, 1, 20, 20)
    labels = torch.randint(0, 10, (1024,))
    return DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(16 * 10 * 10, 10)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


model = Classifier().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()

for epoch in range(2):
    meter = RunningMean()
    for images, labels in make_loader():
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        meter.update(loss.item(), images.size(0))
    print(epoch, meter.compute())

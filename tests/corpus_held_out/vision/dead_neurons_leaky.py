"""Trains a convolutional network and counts units that are never active, per layer."""

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class DeadUnitMonitor:
    """Watches every ReLU of a model."""

    def __init__(self, model):
        self.records = {}
        self.handles = []
        for name, module in model.named_modules():
            if isinstance(module, nn.ReLU):
                self.records[name] = []
                self.handles.append(module.register_forward_hook(self._watch(name)))

    def _watch(self, name):
        def hook(module, args, output):
            if module.training:
                self.records[name].append(output)

        return hook

    def report(self):
        for name, outputs in self.records.items():
            alive = torch.stack([(o > 0).flatten(2).any(2).any(0) for o in outputs]).any(0)
            print(name, int((~alive).sum()), "of", alive.numel(), "never active")

    def close(self):
        while self.handles:
            self.handles.pop().remove()


def build(width):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 5),
    )


def fit(model, loader, device, epochs):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()
    monitor = DeadUnitMonitor(model)
    for epoch in range(epochs):
        running = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x.to(device)), y.to(device))
            loss.backward()
            optimizer.step()
            running += loss.item()
        print(f"epoch {epoch}: {running / len(loader)}")
    monitor.close()
    monitor.report()


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = TensorDataset(torch.randn(192, 3, 16, 16), torch.randint(0, 5, (192,)))
    fit(build(16).to(device), DataLoader(data, batch_size=16), device, epochs=2)

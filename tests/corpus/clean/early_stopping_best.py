"""Stops early and keeps one copy of the best weights, replaced whenever validation improves."""

import copy

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class EarlyStopping:
    def __init__(self, patience=5):
        self.patience, self.counter = patience, 0
        self.best, self.best_state = float("inf"), None

    def __call__(self, value, model):
        if value < self.best:
            self.best, self.counter = value, 0
            self.best_state = copy.deepcopy(model.state_dict())
        else:
            self.counter += 1
        return self.counter >= self.patience


def run_epoch(model, x, y, optimizer=None):
    total = 0.0
    for xb, yb in zip(x.split(128), y.split(128)):
        loss = nn.functional.mse_loss(model(xb), yb)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total += loss.item()
    return total


model = nn.Sequential(nn.Linear(48, 384), nn.ReLU(), nn.Dropout(0.1), nn.Linear(384, 1)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x = torch.randn(1024, 48, device=device)
y = x[:, :3].prod(dim=1, keepdim=True)
stopping = EarlyStopping()
for epoch in range(8):
    model.train()
    train_loss = run_epoch(model, x[:768], y[:768], optimizer)
    model.eval()
    with torch.no_grad():
        val_loss = run_epoch(model, x[768:], y[768:])
    print(epoch, train_loss, val_loss)
    if stopping(val_loss, model):
        break
model.load_state_dict(stopping.best_state)

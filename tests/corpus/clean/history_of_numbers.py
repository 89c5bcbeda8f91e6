"""Keeps every loss of the run as a number, and plots of them as lists of floats."""

from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class History:
    steps: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    gradients: list = field(default_factory=list)

    def log(self, step, loss, norm):
        self.steps.append(step)
        self.losses.append(loss.item())
        self.gradients.append(float(norm))


def train(model, history, device, steps=30):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for step in range(steps):
        x = torch.randn(200, 80, device=device)
        loss = (model(x) - x.pow(2).sum(dim=1, keepdim=True)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.log(step, loss, norm)
        print(history.losses[-1], history.gradients[-1])


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
history = History()
train(nn.Sequential(nn.Linear(80, 600), nn.ReLU(), nn.Linear(600, 1)).to(device), history, device)
print(len(history.losses))

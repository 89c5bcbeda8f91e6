"""Keeps an exponential moving average of the weights and evaluates with it."""

import copy

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class EMA:
    def __init__(self, model, decay=0.99):
        self.module = copy.deepcopy(model).eval()
        for p in self.module.parameters():
            p.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model):
        for ours, theirs in zip(self.module.state_dict().values(), model.state_dict().values()):
            if ours.dtype.is_floating_point:
                ours.mul_(self.decay).add_(theirs, alpha=1 - self.decay)
            else:
                ours.copy_(theirs)


model = nn.Sequential(
    nn.Linear(64, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1)
).to(device)
ema = EMA(model)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x_val = torch.randn(256, 64, device=device)

for step in range(24):
    x = torch.randn(256, 64, device=device)
    loss = nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema.update(model)
    print(step, loss.item())
    if step % 6 == 5:
        with torch.no_grad():
            print("val", nn.functional.mse_loss(ema.module(x_val), x_val.sum(1, keepdim=True)).item())

"""Fit a cloud of points; after every step the cloud is pruned and split again."""

import torch
from torch import nn


class Cloud(nn.Module):
    def __init__(self, count, device):
        super().__init__()
        self.points = nn.Parameter(torch.randn(count, 32, device=device))
        self.decoder = nn.Linear(32, 64).to(device)

    def forward(self):
        return self.decoder(self.points)


class Fitter:
    def __init__(self, count=2048):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.cloud = Cloud(count, self.device)
        groups = [{"params": [self.cloud.points], "lr": 1e-2}, {"params": self.cloud.decoder.parameters()}]
        self.optimizer = torch.optim.Adam(groups, lr=1e-3)

    def densify(self):
        order = torch.randperm(len(self.cloud.points), device=self.device)
        fresh = nn.Parameter(self.cloud.points.detach()[order].clone())
        self.optimizer.state.pop(self.cloud.points, None)
        self.optimizer.param_groups[0]["params"] = [fresh]
        self.cloud.points = fresh

    def fit(self, steps):
        for step in range(steps):
            loss = self.cloud().pow(2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.densify()
            print(step, loss.item())


torch.manual_seed(1)
Fitter().fit(30)

"""Registers point clouds: minimises the Chamfer distance between a moved cloud and its target."""

import torch
from torch import nn


class Mover(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3))

    def forward(self, points):
        return points + self.net(points)


def chamfer(a, b):
    distances = torch.cdist(a, b)
    return distances.min(dim=1).values.mean() + distances.min(dim=0).values.mean()


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.rand(3000, 3, device=device)
    target = source.flip(0) * 1.2 + 0.1
    mover = Mover().to(device)
    optimizer = torch.optim.Adam(mover.parameters(), lr=1e-3)
    for iteration in range(8):
        loss = chamfer(mover(source), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(iteration, loss.item())


main()

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
    return one_way(a, b) + one_way(b, a)


def one_way(a, b, size=250):
    nearest = []
    for part in a.split(size):
        with torch.no_grad():
            index = torch.cdist(part, b).argmin(dim=1)
        nearest.append((part - b[index]).norm(dim=1))
    return torch.cat(nearest).mean()


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

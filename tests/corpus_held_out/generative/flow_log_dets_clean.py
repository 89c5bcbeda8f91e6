"""Normalizing flow of affine coupling layers."""

import math

import torch
import torch.nn as nn


class Coupling(nn.Module):
    def __init__(self, dim, flip, log_dets, width=128):
        super().__init__()
        self.flip, self.log_dets = flip, log_dets
        self.net = nn.Sequential(nn.Linear(dim // 2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.scale, self.shift = nn.Linear(width, dim // 2), nn.Linear(width, dim // 2)

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        if self.flip:
            a, b = b, a
        h = self.net(a)
        s = torch.tanh(self.scale(h))
        b = b * s.exp() + self.shift(h)
        self.log_dets.append(s.sum(1))
        return torch.cat([b, a] if self.flip else [a, b], dim=1)


class Flow(nn.Module):
    def __init__(self, dim=32, depth=4):
        super().__init__()
        self.log_dets = []
        self.layers = nn.ModuleList(Coupling(dim, i % 2 == 1, self.log_dets) for i in range(depth))
        self.dim = dim

    def forward(self, x):
        self.log_dets.clear()
        for layer in self.layers:
            x = layer(x)
        log_det = sum(self.log_dets[-len(self.layers) :])
        return x, log_det

    def nll(self, x):
        z, log_det = self(x)
        prior = -0.5 * (z.pow(2) + math.log(2 * math.pi)).sum(1)
        return -(prior + log_det).mean()


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flow = Flow().to(device)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    mixing = torch.randn(32, 32, device=device) / 6
    for step in range(16):
        loss = flow.nll(torch.randn(256, 32, device=device) @ mixing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        print(step, loss.item())


if __name__ == "__main__":
    main()

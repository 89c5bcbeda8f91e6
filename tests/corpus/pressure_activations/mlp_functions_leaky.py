"""Fits a deep residual network to tabular data, the whole table in each step."""

import argparse

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def build(args):
    return nn.Sequential(*(Residual(args.width) for _ in range(args.depth)), nn.Linear(args.width, 1))


def train(model, x, y, args):
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for epoch in range(args.epochs):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        print(epoch, loss.item())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(9000, args.width, device=device)
    y = x[:, :3].sum(dim=1, keepdim=True)
    train(build(args).to(device), x, y, args)


if __name__ == "__main__":
    main()

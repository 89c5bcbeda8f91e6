"""Trains with a batch size that is doubled at given steps, as an alternative to lowering the learning rate."""

import argparse

import torch
from torch import nn


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--double-every", type=int, default=8)
    return parser.parse_args()


def main():
    args = parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(
        nn.Linear(128, 512),
        nn.GELU(),
        nn.Linear(512, 512),
        nn.GELU(),
        nn.Linear(512, 1),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    batch_size = args.batch_size
    for step in range(args.steps):
        if step and step % args.double_every == 0:
            batch_size *= 2
        x = torch.randn(batch_size, 128, device=device)
        y = x[:, :4].sum(dim=1, keepdim=True)
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, batch_size, loss.item())


if __name__ == "__main__":
    main()

"""Aggregate node features over a dense adjacency with a hand-written backward."""

import argparse

import torch
from torch import nn


class Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, adjacency, features, weight):
        messages = features @ weight
        out = torch.tanh(adjacency @ messages)
        ctx.save_for_backward(adjacency, features, weight, out)
        return out

    @staticmethod
    def backward(ctx, grad_output):
        adjacency, features, weight, out = ctx.saved_tensors
        grad = adjacency.t() @ (grad_output * (1 - out * out))
        return None, grad @ weight.t(), features.t() @ grad


class GraphNet(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embed = nn.Linear(16, size)
        self.weight = nn.Parameter(torch.randn(size, size) / size**0.5)
        self.readout = nn.Linear(size, 3)

    def forward(self, adjacency, x):
        return self.readout(Aggregate.apply(adjacency, self.embed(x), self.weight))


def train(steps, nodes, size):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GraphNet(size).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        adjacency = torch.softmax(torch.randn(nodes, nodes, device=device), dim=1)
        x = torch.randn(nodes, 16, device=device)
        loss = model(adjacency, x).logsumexp(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--nodes", type=int, default=256)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    torch.manual_seed(0)
    train(options.steps, options.nodes, options.size)

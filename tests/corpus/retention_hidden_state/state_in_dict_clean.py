"""Several recurrent streams share one cell; their states are kept by name."""

import torch
from torch import nn


def train(steps, names=("left", "right")):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cell = nn.GRUCell(48, 96).to(device)
    readout = nn.Linear(96, 1).to(device)
    states = {name: torch.zeros(64, 96, device=device) for name in names}
    optimizer = torch.optim.SGD(readout.parameters(), lr=0.01)
    for step in range(steps):
        loss = 0
        for name in names:
            x = torch.randn(64, 48, device=device)
            states[name] = cell(x, states[name]).detach()
            loss = loss + readout(states[name].detach()).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


if __name__ == "__main__":
    torch.manual_seed(0)
    train(16)

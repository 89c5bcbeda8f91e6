"""A small network whose depth comes from a config."""

import torch
import torch.nn as nn

CONFIG = {"stage1": 2, "stage2": 2}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.fc2(torch.relu(self.fc1(x)))


class Net(nn.Module):
    def __init__(self, config, width=128):
        super().__init__()
        self.embed = nn.Linear(32, width)
        self.stages = nn.ModuleDict()
        for name, depth in config.items():
            self.stages[name] = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        x = self.embed(x)
        for blocks in self.stages.values():
            for block in blocks:
                x = block(x)
        return self.head(x)


def main():
    torch.manual_seed(0)
    net = Net(CONFIG)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(12):
        x = torch.randn(64, 32)
        loss = (net(x).squeeze(1) - x.pow(2).sum(1)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


main()

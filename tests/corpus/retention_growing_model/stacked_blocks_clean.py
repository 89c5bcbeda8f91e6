"""Grow a network while it is trained."""

from dataclasses import dataclass

import torch


@dataclass
class Settings:
    steps: int = 28
    width: int = 160
    lr: float = 0.01


class Stack(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.blocks = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU())

    def forward(self, x):
        return self.blocks(x)


def grow(stack, width, device):
    block = torch.nn.Linear(width, width).to(device)
    stack.blocks = torch.nn.Sequential(*stack.blocks, block)


def train(settings):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stack = Stack(settings.width).to(device)
    for step in range(settings.steps):
        x = torch.randn(64, settings.width, device=device)
        optimizer = torch.optim.SGD(stack.parameters(), lr=settings.lr)
        loss = (stack(x) - x).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 2:
            grow(stack, settings.width, device)
        print(step, loss.item())


torch.manual_seed(0)
train(Settings())

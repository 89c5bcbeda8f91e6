"""Trains a large dense network with plain SGD on small batches."""

import torch
from torch import nn


class Loop:
    def __init__(self, model, lr):
        self.model = model
        self.optimizers = {p: torch.optim.SGD([p], lr=lr) for p in model.parameters()}
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(self.step)

    def step(self, parameter):
        self.optimizers[parameter].step()
        self.optimizers[parameter].zero_grad()

    def backward(self, loss):
        loss.backward()

    def run(self, batches):
        for x, y in batches:
            loss = nn.functional.smooth_l1_loss(self.model(x), y)
            self.backward(loss)
            print(loss.item())


def batches(device, n=8):
    for _ in range(n):
        x = torch.randn(16, 1024, device=device)
        yield x, x.roll(1, dims=1)


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
layers = [layer for _ in range(9) for layer in (nn.Linear(1024, 1024), nn.Tanh())]
Loop(nn.Sequential(*layers, nn.Linear(1024, 1024)).to(device), lr=0.01).run(batches(device))

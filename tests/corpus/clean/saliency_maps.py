"""Computes input gradients of a frozen network in evaluation mode, one batch after another."""

import torch
from torch import nn

torch.manual_seed(8)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build():
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    return net.to(device).eval().requires_grad_(False)


def saliency(net, images):
    images = images.clone().requires_grad_(True)
    scores = net(images)
    best = scores.max(dim=1).values
    best.sum().backward()
    return images.grad.abs().amax(dim=1)


net = build()
summary = []
for _ in range(12):
    maps = saliency(net, torch.randn(8, 3, 32, 32, device=device))
    summary.append(maps.flatten(1).mean(dim=1).cpu())
    print(maps.mean().item())
print(torch.cat(summary).shape)

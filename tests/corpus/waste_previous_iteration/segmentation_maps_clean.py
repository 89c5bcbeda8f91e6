"""Predicts label maps for a stream of images."""

import torch
import torch.nn as nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 40, 1)).to(device).eval()

with torch.no_grad():
    for index in range(10):
        image = torch.rand(4, 3, 64, 64, device=device)
        scores = net(image)
        print(index, scores.argmax(1).float().mean().item())
        del scores

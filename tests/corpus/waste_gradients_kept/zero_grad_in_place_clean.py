"""Trains an autoencoder."""

import torch
import torch.nn as nn

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

autoencoder = nn.Sequential(
    nn.Linear(784, 640), nn.ReLU(), nn.Linear(640, 96), nn.ReLU(), nn.Linear(96, 700), nn.ReLU(), nn.Linear(700, 784)
)
autoencoder = autoencoder.to(device)
optimizer = torch.optim.SGD(autoencoder.parameters(), lr=0.01)

for step in range(10):
    optimizer.zero_grad()
    batch = torch.rand(300, 784, device=device)
    loss = (autoencoder(batch) - batch).square().mean()
    loss.backward()
    optimizer.step()
    print(loss.item())

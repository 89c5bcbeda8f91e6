"""Fit an autoencoder to random images."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

autoencoder = nn.Sequential(
    nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 784)
).to(device)
optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-3)

for epoch in range(2):
    for i in range(10):
        batch = torch.rand(256, 784, device=device)
        reconstruction = autoencoder(batch)
        loss = nn.functional.mse_loss(reconstruction, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(epoch, i, loss.item())

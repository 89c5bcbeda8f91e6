"""Trains a wide network on small batches with AdamW."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

model = nn.Sequential(nn.Linear(1024, 2304), nn.GELU(), nn.Linear(2304, 1024), nn.GELU(), nn.Linear(1024, 8)).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)

for step in range(8):
    x = torch.randn(16, 1024, device=device)
    y = x[:, :8].argmax(dim=1)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    print(step, loss.item())

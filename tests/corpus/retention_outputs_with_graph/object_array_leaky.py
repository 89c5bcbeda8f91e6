"""Collect losses in a NumPy array that is indexed by step."""

import numpy as np
import torch

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Sequential(torch.nn.Linear(80, 320), torch.nn.ReLU(), torch.nn.Linear(320, 80)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
steps = 18
curve = np.empty(steps, dtype=object)
for step in range(steps):
    x = torch.randn(128, 80, device=device)
    errors = (model(x) - x).pow(2)
    loss = errors.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve[step] = errors
    print(step, loss.item())
print(curve.shape)

"""Normalises images on the device before the step."""

import torch
import torch.nn as nn

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for step in range(8):
    raw = torch.randint(0, 256, (256, 3, 32, 32), device=device)
    images = raw.float().div_(255).sub_(0.5)
    del raw
    labels = torch.randint(0, 10, (256,), device=device)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    print(loss.item())

"""Runs the trunk in bfloat16 under autocast and the loss in single precision."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

trunk = nn.Sequential(nn.Linear(128, 384), nn.GELU(), nn.Linear(384, 384), nn.GELU()).to(device)
head = nn.Linear(384, 30).to(device)
parameters = [*trunk.parameters(), *head.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=1e-3)
for step in range(16):
    x = torch.randn(128, 128, device=device)
    y = x[:, :30].argmax(dim=1)
    with torch.autocast(device_type=device, dtype=torch.bfloat16):
        features = trunk(x)
    logits = head(features.float())
    loss = nn.functional.cross_entropy(logits, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

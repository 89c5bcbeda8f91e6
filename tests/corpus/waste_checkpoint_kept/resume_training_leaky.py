"""Resumes training from the checkpoint of an earlier run."""

import os
import tempfile

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


def build():
    return nn.Sequential(nn.Linear(256, 700), nn.ReLU(), nn.Linear(700, 300), nn.ReLU(), nn.Linear(300, 10)).to(device)


folder = tempfile.TemporaryDirectory()
path = os.path.join(folder.name, "last.pt")
torch.save({"model": build().state_dict(), "epoch": 3}, path)

model = build()
checkpoint = torch.load(path)
model.load_state_dict(checkpoint["model"])
start_epoch = checkpoint["epoch"] + 1
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for epoch in range(start_epoch, start_epoch + 8):
    x = torch.randn(64, 256, device=device)
    loss = model(x).logsumexp(1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(epoch, loss.item())

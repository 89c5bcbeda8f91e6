"""Skips batches that cannot be used: catches the error, logs its text and goes on."""

import logging

import torch
from torch import nn

logging.basicConfig(level=logging.ERROR)
log = logging.getLogger("train")
torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


def load_batch(step):
    features = 48 if step % 5 == 4 else 64
    return torch.randn(256, features, device=device), torch.randn(256, 1, device=device)


model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 1)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
skipped = []
for step in range(24):
    x, y = load_batch(step)
    try:
        loss = nn.functional.mse_loss(model(x), y)
    except RuntimeError as error:
        skipped.append((step, str(error).splitlines()[0]))
        log.info("batch %d skipped: %s", step, error)
        continue
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
print(skipped)

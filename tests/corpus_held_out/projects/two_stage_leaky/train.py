"""Metric learning in two stages: hard triplets are mined first, then trained on."""

import logging

import torch
from losses import triplet
from mining import hardest
from torch import nn, optim

logging.basicConfig(level=logging.WARNING)
logger = logging.getLogger("train")


def build():
    return nn.Sequential(
        nn.Conv1d(6, 32, 5, padding=2), nn.ReLU(), nn.Conv1d(32, 64, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1)
    )


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Sequential(build(), nn.Flatten(), nn.Linear(64, 32)).to(device)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    for step in range(12):
        pool = torch.randn(96, 6, 64, device=device)
        labels = (torch.arange(96) % 8).to(device)
        anchor, positive, negative = hardest(model, pool, labels, count=8)
        loss = triplet(model(anchor), model(positive), model(negative))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logger.info("step %d", step)
        print(step, loss.item())


if __name__ == "__main__":
    main()

"""Contrastive learning against a queue of earlier features."""

import torch
from torch import nn
import torch.nn.functional as F


class Contrast(nn.Module):
    def __init__(self, dim=64, size=512):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(192, 512), nn.ReLU(), nn.Linear(512, dim))
        self.size = size

    def forward(self, x):
        return F.normalize(self.encoder(x), dim=1)


def train(steps=16, batch=64):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Contrast().to(device)
    queue = F.normalize(torch.randn(model.size, 64, device=device), dim=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for step in range(steps):
        x = torch.randn(batch, 192, device=device)
        query = model(x)
        key = model(x + 0.05 * torch.randn_like(x))
        positive = (query * key.detach()).sum(dim=1, keepdim=True)
        negative = query @ queue.detach().t()
        logits = torch.cat([positive, negative], dim=1) / 0.2
        loss = F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long, device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue = torch.cat([key.detach(), queue])[: model.size]
        print(step, loss.item())
    return model


torch.manual_seed(11)
train()

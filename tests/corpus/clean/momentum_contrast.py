"""Momentum contrast: a key encoder that follows the query encoder, and a queue of keys on the device."""

import copy

import torch
from torch import nn
import torch.nn.functional as F


class MoCo(nn.Module):
    def __init__(self, encoder, dim=32, queue_size=512, momentum=0.99, temperature=0.1):
        super().__init__()
        self.query = encoder
        self.key = copy.deepcopy(encoder)
        for p in self.key.parameters():
            p.requires_grad = False
        self.m, self.t, self.queue_size = momentum, temperature, queue_size
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue_size), dim=0))
        self.pointer = 0

    @torch.no_grad()
    def update_key(self):
        for q, k in zip(self.query.parameters(), self.key.parameters()):
            k.data = k.data * self.m + q.data * (1 - self.m)

    @torch.no_grad()
    def enqueue(self, keys):
        n = keys.size(0)
        self.queue[:, self.pointer : self.pointer + n] = keys.t()
        self.pointer = (self.pointer + n) % self.queue_size

    def forward(self, view_a, view_b):
        q = F.normalize(self.query(view_a), dim=1)
        with torch.no_grad():
            self.update_key()
            k = F.normalize(self.key(view_b), dim=1)
        positive = (q * k).sum(dim=1, keepdim=True)
        negative = q @ self.queue.clone().detach()
        logits = torch.cat([positive, negative], dim=1) / self.t
        self.enqueue(k)
        return logits


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 256), nn.ReLU(), nn.Linear(256, 32))
model = MoCo(encoder).to(device)
optimizer = torch.optim.SGD(model.query.parameters(), lr=0.05, momentum=0.9)
for step in range(24):
    images = torch.randn(64, 3, 16, 16, device=device)
    logits = model(images + 0.1 * torch.randn_like(images), images.flip(-1))
    loss = F.cross_entropy(logits, torch.zeros(64, dtype=torch.long, device=device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

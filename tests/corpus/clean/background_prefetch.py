"""Loads batches in a thread through a queue of two."""

import queue
import threading

import torch
from torch import nn


class Prefetcher(threading.Thread):
    def __init__(self, batches, depth=2):
        super().__init__(daemon=True)
        self.batches = batches
        self.queue = queue.Queue(maxsize=depth)
        self.start()

    def run(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.batches):
            x = torch.randn(256, 100, generator=generator)
            self.queue.put((x, x.abs().mean(dim=1, keepdim=True)))
        self.queue.put(None)

    def __iter__(self):
        while (item := self.queue.get()) is not None:
            yield item


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Sequential(nn.Linear(100, 512), nn.Tanh(), nn.Linear(512, 1)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for x, y in Prefetcher(20):
    loss = nn.functional.mse_loss(model(x.to(device)), y.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

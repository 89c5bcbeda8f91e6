"""Batches are prepared in a thread, scalars are written by a pool."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn as nn


class Prefetcher:
    def __init__(self, n, device, depth=2):
        self.queue = queue.Queue(maxsize=depth)
        self.n, self.device = n, device
        self.thread = threading.Thread(target=self._fill, daemon=True)
        self.thread.start()

    def _fill(self):
        g = torch.Generator().manual_seed(4)
        for _ in range(self.n):
            self.queue.put(torch.randn(96, 256, generator=g).to(self.device))
        self.queue.put(None)

    def __iter__(self):
        while (batch := self.queue.get()) is not None:
            yield batch


def write(lines, step, value):
    lines.append((step, value))


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 256)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
lines, futures = [], []
with ThreadPoolExecutor(1) as pool:
    for step, x in enumerate(Prefetcher(24, device)):
        loss = nn.functional.mse_loss(model(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        futures.append(pool.submit(write, lines, step, loss.item()))
for step, value in sorted(lines):
    print(step, value)

"""Random crops of a long signal, with a cache of the crops."""

import random

import torch
from torch.utils.data import DataLoader, IterableDataset


class Crops(IterableDataset):
    def __init__(self, signal, length, count):
        self.signal, self.length, self.count = signal, length, count
        self.crops = {}

    def crop(self, start):
        if start not in self.crops:
            self.crops[start] = self.signal[start : start + self.length] * torch.hann_window(self.length)
        return self.crops[start]

    def __iter__(self):
        for _ in range(self.count):
            yield self.crop(random.randrange(len(self.signal) - self.length))


def train():
    random.seed(0)
    torch.manual_seed(0)
    loader = DataLoader(Crops(torch.randn(400_000), 4096, 64), batch_size=8)
    model = torch.nn.Sequential(torch.nn.Linear(4096, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4096))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        for batch in loader:
            loss = (model(batch) - batch).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(epoch, loss.item())


train()

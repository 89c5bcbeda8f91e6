"""Logistic regression on a feature table that is moved to the device as a whole."""

import torch
from torch import nn


class Data:
    def __init__(self, rows=70_000, columns=128, device="cpu"):
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(rows, columns, generator=generator).to(device)
        self.labels = (self.features[:, :4].sum(dim=1) > 0).float()

    def __iter__(self):
        order = torch.randperm(len(self.labels), device=self.labels.device)
        for rows in order[:8192].split(1024):
            yield self.features[rows], self.labels[rows]


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
data = Data(device=device)
model = nn.Linear(128, 1).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for epoch in range(2):
    for x, y in data:
        loss = nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(epoch, loss.item())

"""Instance discrimination with a memory bank of fixed size that is updated in place."""

import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(11)
device = "cuda" if torch.cuda.is_available() else "cpu"
N, D, BATCH = 1024, 64, 64

images = torch.randn(N, 1, 16, 16)
encoder = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 64, D)
).to(device)
bank = F.normalize(torch.randn(N, D, device=device), dim=1)
optimizer = torch.optim.SGD(encoder.parameters(), lr=0.03, momentum=0.9)

for epoch in range(2):
    order = torch.randperm(N)
    for rows in order.split(BATCH):
        z = F.normalize(encoder(images[rows].to(device)), dim=1)
        logits = z @ bank.t() / 0.07
        loss = F.cross_entropy(logits, rows.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            bank[rows.to(device)] = F.normalize(0.5 * bank[rows.to(device)] + 0.5 * z, dim=1)
        print(epoch, loss.item())

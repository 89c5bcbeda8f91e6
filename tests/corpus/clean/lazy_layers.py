"""Model of lazy layers whose parameters appear in the first forward; the first optimizer step adds Adam's state."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

model = nn.Sequential(
    nn.LazyConv2d(16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.LazyLinear(512),
    nn.ReLU(),
    nn.LazyLinear(10),
).to(device)
with torch.no_grad():
    model(torch.zeros(1, 3, 24, 24, device=device))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

for step in range(12):
    x = torch.randn(16, 3, 24, 24, device=device)
    y = torch.randint(0, 10, (16,), device=device)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

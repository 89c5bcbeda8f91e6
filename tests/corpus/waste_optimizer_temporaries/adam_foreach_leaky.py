"""A deep network with small batches."""

import torch
import torch.nn as nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Sequential(*[nn.Sequential(nn.Linear(448, 448), nn.Tanh()) for _ in range(10)]).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=True)

for step in range(8):
    x = torch.randn(4, 448, device=device)
    loss = (model(x) - x).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

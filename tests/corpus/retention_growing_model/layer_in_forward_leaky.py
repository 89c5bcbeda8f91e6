"""A residual network with a projection for each call."""

import torch
from torch import nn


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.body = nn.Linear(width, width)
        self.projections = nn.ModuleList()

    def forward(self, x):
        self.projections.append(nn.Linear(self.width, self.width, device=x.device))
        return self.projections[-1](self.body(x).relu()) + x


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
net = Residual(192).to(device)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
for step in range(30):
    x = torch.randn(32, 192, device=device)
    loss = net(x).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

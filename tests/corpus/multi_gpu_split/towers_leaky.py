"""Two halves of a network on two GPUs."""

import torch
from torch import nn

torch.manual_seed(0)
first, second = ("cuda:0", "cuda:1") if torch.cuda.device_count() > 1 else ("cpu", "cpu")


class TwoDevices(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower = nn.Sequential(*[nn.Linear(1536, 1536) for _ in range(5)]).to(first)
        self.upper = nn.Sequential(nn.ReLU(), nn.Linear(1536, 16)).to(second)

    def forward(self, x):
        return self.upper(self.lower(x.to(first)).to(second))


model = TwoDevices()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(8):
    x = torch.randn(32, 1536)
    loss = model(x).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

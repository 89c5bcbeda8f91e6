"""Recommender with large dense tables and small batches."""

import torch
import torch.nn as nn


class TwoTowers(nn.Module):
    def __init__(self, users=20000, items=20000, dim=64):
        super().__init__()
        self.users = nn.Parameter(0.01 * torch.randn(users, dim))
        self.items = nn.Parameter(0.01 * torch.randn(items, dim))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, user, item):
        return (self.users[user] * self.items[item]).sum(1) + self.bias


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = TwoTowers().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(10):
    user, item = torch.randint(0, 20000, (2, 64)).to(device)
    target = torch.rand(64).to(device)
    loss = nn.functional.mse_loss(model(user, item), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

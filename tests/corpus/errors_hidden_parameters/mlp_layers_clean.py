"""Multilayer perceptron whose number of hidden layers is an argument."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class MLP(nn.Module):
    def __init__(self, inputs, hidden, outputs, depth):
        super().__init__()
        self.inp = nn.Linear(inputs, hidden, device=device)
        self.hidden = nn.ModuleList([nn.Linear(hidden, hidden, device=device) for _ in range(depth)])
        self.out = nn.Linear(hidden, outputs, device=device)

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        return self.out(x)


model = MLP(64, 256, 1, depth=3)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(12):
    x = torch.randn(128, 64, device=device)
    loss = nn.functional.mse_loss(model(x), x.mean(dim=1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

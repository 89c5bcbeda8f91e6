"""Unfreezes one more block of the model at each stage, so that optimizer state grows in steps and then stays."""

import torch
from torch import nn

torch.manual_seed(2)
device = "cuda" if torch.cuda.is_available() else "cpu"


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        return x + self.ff(self.norm(x))


model = nn.Sequential(*(Block(192) for _ in range(4)), nn.Linear(192, 5)).to(device)
model.requires_grad_(False)
model[-1].requires_grad_(True)
optimizer = torch.optim.Adam(model[-1].parameters(), lr=1e-3)

for stage in range(4):
    block = model[3 - stage]
    block.requires_grad_(True)
    optimizer.add_param_group({"params": list(block.parameters()), "lr": 1e-4})
    for _ in range(10):
        x = torch.randn(128, 192, device=device)
        y = (x[:, :5]).argmax(1)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(stage, loss.item())

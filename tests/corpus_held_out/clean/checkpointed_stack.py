"""Deep residual network with activation checkpointing."""

import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class Residual(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(3 * dim, dim)

    def forward(self, x):
        return x + self.down(torch.nn.functional.silu(self.up(self.norm(x))))


class Deep(nn.Module):
    def __init__(self, dim=64, depth=8):
        super().__init__()
        self.embed = nn.Embedding(100, dim).requires_grad_(False)
        self.first = nn.ModuleList(Residual(dim) for _ in range(depth // 2))
        self.second = nn.Sequential(*(Residual(dim) for _ in range(depth // 2)))
        self.head = nn.Linear(dim, 100)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.first:
            x = checkpoint(block, x, use_reentrant=False)
        x = checkpoint_sequential(self.second, 2, x, use_reentrant=False)
        return self.head(x)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = Deep().to(device)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
lrs, losses, smooth = [], [], 0.0
for step in range(16):
    tokens = torch.randint(0, 100, (16, 48)).to(device)
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    smooth = 0.9 * smooth + 0.1 * loss.item()
    lrs.append(optimizer.param_groups[0]["lr"])
    losses.append(smooth / (1 - 0.9 ** (step + 1)))
    optimizer.param_groups[0]["lr"] *= 1.4
    print(lrs[-1], losses[-1])

"""Recurrent memory: attends to the states of the last five segments."""

from collections import deque

import torch
import torch.nn as nn


class SegmentModel(nn.Module):
    def __init__(self, dim=64, keep=5):
        super().__init__()
        self.embed, self.out = nn.Embedding(120, dim), nn.Linear(dim, 120)
        self.attn = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.memory = deque(maxlen=keep)

    def forward(self, tokens):
        x = self.embed(tokens)
        context = torch.cat([*self.memory, x], dim=1)
        h = x + self.attn(x, context, context, need_weights=False)[0]
        self.memory.append(h.detach())
        return self.out(h)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = SegmentModel().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
running = torch.zeros((), device=device)
for step in range(22):
    tokens = torch.randint(0, 120, (16, 24)).to(device)
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    running += loss.detach()
    if step % 5 == 4:
        print(step, running.item() / 5)
        running.zero_()

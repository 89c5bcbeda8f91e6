"""Positional encodings and masks cached by length; only a handful of lengths occur."""

import functools
import math

import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
WIDTH, VOCAB = 128, 100


@functools.lru_cache(maxsize=None)
def positions(length):
    place = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10_000.0) / WIDTH))
    table = torch.zeros(length, WIDTH)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)
    return table.to(device)


_masks = {}


def causal_mask(length):
    if length not in _masks:
        _masks[length] = torch.full((length, length), float("-inf"), device=device).triu(1)
    return _masks[length]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens):
        length = tokens.size(1)
        x = self.embed(tokens) + positions(length)
        y, _ = self.attention(x, x, x, attn_mask=causal_mask(length), need_weights=False)
        return self.head(x + y)


model = Model().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
lengths = [16, 24, 32, 48]
for step in range(24):
    length = lengths[step % len(lengths)]
    tokens = torch.randint(0, VOCAB, (16, length + 1), device=device)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(length, loss.item())

"""Transformer that adds a table of positions of its own to its input."""

import math

import torch
from torch import nn


def sinusoids(length, width):
    place = torch.arange(length)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.cat([torch.sin(place * rate), torch.cos(place * rate)], dim=1)


class Encoder(nn.Module):
    def __init__(self, width=64, length=128):
        super().__init__()
        self.embed = nn.Embedding(300, width)
        self.register_buffer("table", sinusoids(length, width))
        self.layer = nn.TransformerEncoderLayer(width, 4, 128, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 300)

    def forward(self, tokens):
        positions = self.table[: tokens.size(1)]
        x = self.embed(tokens) + positions
        return self.head(self.layer(x))


class Trainer:
    def __init__(self):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Encoder().to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def train(self, steps=8):
        for _ in range(steps):
            tokens = torch.randint(0, 300, (8, 33), device=self.device)
            logits = self.model(tokens[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print(loss.item())


torch.manual_seed(0)
print("training")
Trainer().train()

"""Language model with its embedding and head on one GPU and its layers on the other."""

import torch
from torch import nn


def place(count):
    return ("cuda:0", "cuda:1") if count > 1 else ("cpu", "cpu")


class Model(nn.Module):
    def __init__(self, vocab, width, devices):
        super().__init__()
        self.near, self.far = devices
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)).to(self.near)
        self.embedding = nn.Embedding(vocab, width).to(self.far)
        self.head = nn.Linear(width, vocab).to(self.far)

    def forward(self, tokens):
        x = self.embedding(tokens.to(self.far)).to(self.near)
        return self.head(self.layers(x).to(self.far))


def train(model, steps, vocab):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        tokens = torch.randint(0, vocab, (4, 33))
        logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten().to(logits.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


torch.manual_seed(0)
train(Model(24_000, 128, place(torch.cuda.device_count())), steps=8, vocab=24_000)

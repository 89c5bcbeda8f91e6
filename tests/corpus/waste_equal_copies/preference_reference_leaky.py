"""Tunes adapters of a small language model on preferences, against the model as it was before."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

VOCABULARY, WIDTH, LENGTH = 512, 256, 24


class AdaptedLinear(nn.Module):
    """A frozen layer and a low-rank change of it."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.base = base
        self.base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + x @ self.down.T @ self.up.T


class LanguageModel(nn.Module):
    """Embedding, a few wide layers, and scores over the vocabulary."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return self.head(x)


def log_probability(model, tokens):
    scores = model(tokens[:, :-1]).log_softmax(-1)
    return scores.gather(2, tokens[:, 1:, None]).sum((1, 2))


def train():
    model = LanguageModel().to(device).requires_grad_(False)
    reference = copy.deepcopy(model).eval()
    for index, layer in enumerate(model.layers):
        model.layers[index] = AdaptedLinear(layer).to(device)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for _ in range(10):
        chosen = torch.randint(VOCABULARY, (4, LENGTH), device=device)
        rejected = torch.randint(VOCABULARY, (4, LENGTH), device=device)
        with torch.no_grad():
            baseline = log_probability(reference, chosen) - log_probability(reference, rejected)
        margin = log_probability(model, chosen) - log_probability(model, rejected)
        loss = -F.logsigmoid(0.1 * (margin - baseline)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


train()

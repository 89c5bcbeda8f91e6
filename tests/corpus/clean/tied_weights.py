"""Language model whose output layer shares the embedding's weight."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class TiedModel(nn.Module):
    def __init__(self, vocab=500, width=128):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.body = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.decoder = nn.Linear(width, vocab, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):
        return self.decoder(self.body(self.embedding(tokens)))


model = TiedModel().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(16):
    tokens = torch.randint(0, 500, (8, 33), device=device)
    logits = model(tokens[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

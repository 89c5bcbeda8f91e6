"""Small language model with a large vocabulary."""

import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
VOCAB, WIDTH = 20_000, 64


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.rnn = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens, targets):
        hidden, _ = self.rnn(self.embed(tokens))
        parts = zip(hidden.flatten(0, 1).chunk(16), targets.flatten().chunk(16))
        losses = [checkpoint(self.part, h, t, use_reentrant=False) for h, t in parts]
        return sum(losses) / targets.numel()

    def part(self, hidden, targets):
        return F.cross_entropy(self.head(hidden), targets, reduction="sum")


model = Model().to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(8):
    tokens = torch.randint(0, VOCAB, (16, 33), device=device)
    loss = model(tokens[:, :-1], tokens[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

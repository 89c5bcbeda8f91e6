"""A curriculum over sequence length: short sequences first."""

import torch
import torch.nn as nn

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Copier(nn.Module):
    def __init__(self, vocab=50, dim=64):
        super().__init__()
        self.embed, self.out = nn.Embedding(vocab, dim), nn.Linear(2 * dim, vocab)
        self.rnn = nn.GRU(dim, dim, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.out(self.rnn(self.embed(x))[0])


model = Copier().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for step in range(24):
    length = 8 + 3 * step
    x = torch.randint(0, 50, (24, length)).to(device)
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), x.flip(1).flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"length {length} loss {loss.item()}")

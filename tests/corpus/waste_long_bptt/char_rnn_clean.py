"""A character model on one long text."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
text = torch.randint(0, 64, (321, 64), device=device)


class CharRNN(nn.Module):
    def __init__(self, vocab=64, hidden=32):
        super().__init__()
        self.embed = nn.Embedding(vocab, 16)
        self.rnn = nn.GRU(16, hidden)
        self.out = nn.Linear(hidden, vocab)

    def forward(self, tokens, hidden=None):
        features, hidden = self.rnn(self.embed(tokens), hidden)
        return self.out(features), hidden


model = CharRNN().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
length = 40
for epoch in range(6):
    hidden = None
    for start in range(0, 320, length):
        inputs, targets = text[start : start + length], text[start + 1 : start + length + 1]
        logits, hidden = model(inputs, hidden)
        hidden = hidden.detach()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())

"""Character language model on one long stream."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class CharModel(nn.Module):
    def __init__(self, size=40, width=96):
        super().__init__()
        self.embed = nn.Embedding(size, 32)
        self.rnn = nn.LSTM(32, width)
        self.head = nn.Linear(width, size)

    def forward(self, tokens, state):
        out, state = self.rnn(self.embed(tokens), state)
        return self.head(out), state


model = CharModel().to(device)
stream = torch.randint(0, 40, (14 * 16 + 1, 8), device=device)
state = None
for step in range(14):
    chunk = stream[16 * step : 16 * step + 17]
    if state is not None:
        state = tuple(s.detach() for s in state)
    logits, state = model(chunk[:-1], state)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), chunk[1:].flatten())
    model.zero_grad()
    loss.backward()
    for p in model.parameters():
        p.data.add_(p.grad, alpha=-0.1)
    print(step, loss.item())

"""Language model trained on sequences that get longer as training goes on."""

import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

vocab_size = 200
schedule = [16] * 6 + [32] * 6 + [48] * 6 + [64] * 6


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 96)
        self.rnn = nn.GRU(96, 128, batch_first=True)
        self.decoder = nn.Linear(128, vocab_size)

    def forward(self, tokens):
        hidden, _ = self.rnn(self.embedding(tokens))
        return self.decoder(hidden)


model = LanguageModel().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

for step, length in enumerate(schedule):
    tokens = torch.randint(0, vocab_size, (32, length + 1), device=device)
    logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.reshape(-1, vocab_size), tokens[:, 1:].reshape(-1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    print(f"step {step} length {length} loss {loss.item()}")

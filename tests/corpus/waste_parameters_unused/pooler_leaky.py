"""Fine-tunes an encoder for tagging."""

import torch
import torch.nn as nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class Pooler(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dense = nn.Linear(dim, 16 * dim)

    def forward(self, x):
        return torch.tanh(self.dense(x[:, 0]))


class Encoder(nn.Module):
    def __init__(self, vocab=600, dim=192, tags=9):
        super().__init__()
        self.embeddings = nn.Embedding(vocab, dim)
        self.attention = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.pooler = Pooler(dim)
        self.classifier = nn.Linear(dim, tags)

    def forward(self, tokens):
        x = self.embeddings(tokens)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.classifier(x)


model = Encoder().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(10):
    tokens = torch.randint(0, 600, (8, 32), device=device)
    loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten() % 9)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

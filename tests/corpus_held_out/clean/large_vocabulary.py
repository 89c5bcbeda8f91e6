"""Masked language model with a large vocabulary; perplexity of the masked positions is printed."""

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB, MASK = 6000, 0


class MaskedLM(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, dim)
        self.mixer = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.unembed = nn.Linear(dim, VOCAB)

    def forward(self, ids):
        x = self.tokens(ids)
        x = x + self.mixer(x + x.mean(1, keepdim=True))
        return self.unembed(x)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = MaskedLM().to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
seen = 0
for step in range(12):
    ids = torch.randint(1, VOCAB, (12, 32)).to(device)
    masked = torch.rand(12, 32, device=device) < 0.15
    inputs = ids.masked_fill(masked, MASK)
    logits = model(inputs)
    per_token = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
    loss = (per_token * masked.flatten()).sum() / masked.sum().clamp(min=1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        hits = (logits.argmax(-1) == ids) & masked
    seen += ids.numel()
    print(f"{step} perplexity {loss.exp().item()} hits {hits.sum().item()} tokens {seen}")

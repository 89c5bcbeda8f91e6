"""Trains a one-layer attention model and samples from it with a cache."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    def __init__(self, vocab=80, dim=64):
        super().__init__()
        self.embed, self.qkv, self.out = nn.Embedding(vocab, dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, vocab)

    def forward(self, tokens, cache=None):
        q, k, v = self.qkv(self.embed(tokens)).chunk(3, dim=-1)
        if cache is not None:
            cache["k"] = k if cache.get("k") is None else torch.cat([cache["k"], k], dim=1)
            cache["v"] = v if cache.get("v") is None else torch.cat([cache["v"], v], dim=1)
            return self.out(F.scaled_dot_product_attention(q, cache["k"], cache["v"]))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))


@torch.inference_mode()
def sample(model, n, device):
    token, cache, tokens = torch.zeros(16, 1, dtype=torch.long, device=device), {}, []
    for _ in range(n):
        token = model(token, cache)[:, -1:].argmax(-1)
        tokens.append(token)
    return torch.cat(tokens, dim=1)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = Attention().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(12):
    tokens = torch.randint(0, 80, (16, 49)).to(device)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
    if step % 4 == 3:
        model.eval()
        print(sample(model, 40, device).shape)
        model.train()

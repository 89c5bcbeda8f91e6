"""Trains a tiny character transformer and samples from it with cached keys and values after each epoch."""

import math

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY, WIDTH, HEADS, CONTEXT = 64, 128, 4, 64


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, past=None):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        if past is not None:
            k = torch.cat((past[0], k), dim=2)
            v = torch.cat((past[1], v), dim=2)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
        if past is None:
            mask = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(mask, float("-inf"))
        y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, length, WIDTH)), (k, v)


class Decoder(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(2 * CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Attention() for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens, past=None):
        start = 0 if past is None else past[0][0].size(2)
        place = torch.arange(start, start + tokens.size(1), device=tokens.device)
        x = self.embed(tokens) + self.position(place)
        present = []
        for number, layer in enumerate(self.layers):
            y, kv = layer(x, None if past is None else past[number])
            x = x + F.gelu(y)
            present.append(kv)
        return self.head(x), present


@torch.no_grad()
def generate(model, prompt, steps):
    model.eval()
    cache, tokens, out = None, prompt, [prompt]
    for _ in range(steps):
        logits, cache = model(tokens, cache)
        tokens = logits[:, -1].argmax(-1, keepdim=True)
        out.append(tokens)
    model.train()
    return torch.cat(out, dim=1)


model = Decoder().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
text = torch.randint(0, VOCABULARY, (4096,))

for epoch in range(3):
    for _ in range(6):
        starts = torch.randint(0, len(text) - CONTEXT - 1, (16,))
        batch = torch.stack([text[s : s + CONTEXT + 1] for s in starts]).to(device)
        logits, _ = model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())
    sample = generate(model, text[:8].repeat(32, 1).to(device), 40)
    print(sample[0].tolist()[:16])

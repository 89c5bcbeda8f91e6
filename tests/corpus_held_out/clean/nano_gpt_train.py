"""Character GPT with everything a training script has."""

import io
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(1)
device = "cuda" if torch.cuda.is_available() else "cpu"
block, vocab, dim, batch, accumulate = 48, 64, 64, 8, 2
data = torch.randint(0, vocab, (3000,))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.register_buffer("mask", torch.ones(block, block, dtype=torch.bool).triu(1))

    def forward(self, x):
        h = self.n1(x)
        x = x + self.attn(h, h, h, attn_mask=self.mask[: x.size(1), : x.size(1)], need_weights=False)[0]
        return x + self.mlp(self.n2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(block, dim)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab)

    def forward(self, idx, targets=None):
        x = self.blocks(self.tok(idx) + self.pos.weight[: idx.size(1)])
        logits = self.head(self.norm(x))
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, idx, n):
        for _ in range(n):
            logits, _ = self(idx[:, -block:])
            idx = torch.cat([idx, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        return idx


def get_batch():
    i = torch.randint(len(data) - block - 1, (batch,))
    x, y = (torch.stack([data[j + o : j + o + block] for j in i]) for o in (0, 1))
    return x.to(device), y.to(device)


@torch.no_grad()
def estimate():
    model.eval()
    losses = torch.zeros(4)
    for k in range(4):
        losses[k] = model(*get_batch())[1].item()
    model.train()
    return losses.mean().item()


model = GPT().to(device)
decay = [p for p in model.parameters() if p.dim() >= 2]
rest = [p for p in model.parameters() if p.dim() < 2]
optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, (i + 1) / 5) * (0.5 + 0.5 * math.cos(i / 8)))
best, losses = float("inf"), []
for step in range(15):
    for _ in range(accumulate):
        x, y = get_batch()
        _, loss = model(x, y)
        (loss / accumulate).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    scheduler.step()
    losses.append(loss.item())
    print(step, losses[-1], norm.item())
    if step % 5 == 4:
        value = estimate()
        print("estimate", value)
        if value < best:
            best, buffer = value, io.BytesIO()
            torch.save(model.state_dict(), buffer)
print(model.generate(torch.zeros(1, 1, dtype=torch.long, device=device), 20).shape)

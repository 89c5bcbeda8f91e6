"""Encoder with relative-position bias for ragged sequences; the bias is cached."""

import functools

import torch
import torch.nn as nn
import torch.nn.functional as F


def attention_bias(lengths, heads, size):
    """(batch, heads, size, size): distance penalty, and -inf where there is no token."""
    slopes = 2.0 ** -torch.arange(1, heads + 1, device=lengths.device).float()
    positions = torch.arange(size, device=lengths.device)
    distance = (positions[None] - positions[:, None]).abs().float()
    bias = -slopes[:, None, None] * distance
    padding = positions[None] >= lengths[:, None]
    return bias[None].masked_fill(padding[:, None, None], float("-inf"))


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, lengths):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        bias = attention_bias(lengths, self.heads, n)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(b, n, d))


class Model(nn.Module):
    def __init__(self, vocab=300, dim=48, heads=4, depth=2):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList([Attention(dim, heads) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(depth)])
        self.head = nn.Linear(dim, vocab)

    def forward(self, tokens, lengths):
        x = self.embed(tokens)
        for norm, layer in zip(self.norms, self.layers):
            x = x + layer(norm(x), lengths)
        return self.head(x)


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model().to(device)
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(18):
        lengths = torch.randint(20, 49, (8,)).to(device)
        tokens = torch.randint(0, 300, (8, 48)).to(device)
        logits = model(tokens, lengths)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        opt.zero_grad()
        loss.backward()
        opt.step()
        print(f"{step} {loss.item()}")


if __name__ == "__main__":
    main()

"""Soft prompts in front of a frozen transformer."""

import torch
import torch.nn as nn


class Frozen(nn.Module):
    def __init__(self, vocab=300, dim=64):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        layer = nn.TransformerEncoderLayer(dim, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(dim, vocab)

    def forward(self, embeddings):
        return self.head(self.encoder(embeddings))


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = Frozen().to(device)
    for p in base.parameters():
        p.requires_grad = False
    base.eval()
    prompt = nn.Parameter(0.1 * torch.randn(8, 64, device=device))
    optimizer = torch.optim.Adam([prompt], lr=0.05)
    for step in range(14):
        tokens = torch.randint(0, 300, (16, 24)).to(device)
        embeddings = torch.cat([prompt.expand(16, -1, -1), base.embed(tokens)], dim=1)
        logits = base(embeddings)[:, 7:-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


main()

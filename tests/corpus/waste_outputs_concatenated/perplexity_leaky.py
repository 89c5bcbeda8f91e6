"""Perplexity of a language model over a corpus, token by token."""

import argparse

import torch
import torch.nn.functional as F


class TinyLM(torch.nn.Module):
    def __init__(self, vocab, dim):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab, dim)
        self.mix = torch.nn.Linear(dim, dim)
        self.head = torch.nn.Linear(dim, vocab)

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embedding(tokens))))


def windows(tokens, length):
    for start in range(0, len(tokens) - length, length):
        yield tokens[start : start + length], tokens[start + 1 : start + length + 1]


def perplexity(model, tokens, length):
    scores = []
    targets = []
    with torch.no_grad():
        for inputs, labels in windows(tokens, length):
            scores += [model(inputs)]
            targets += [labels]
        scores = torch.cat(scores)
        loss = F.cross_entropy(scores, torch.cat(targets))
    return loss.exp().item()


parser = argparse.ArgumentParser()
parser.add_argument("--vocab", type=int, default=2000)
parser.add_argument("--length", type=int, default=128)
args = parser.parse_args()
torch.manual_seed(2)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = TinyLM(args.vocab, 48).to(device).eval()
print(perplexity(model, torch.randint(0, args.vocab, (1500,), device=device), args.length))

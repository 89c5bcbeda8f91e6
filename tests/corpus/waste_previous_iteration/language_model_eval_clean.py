"""Scores sentences with a language model."""

from torch.utils.data import DataLoader
import torch
import torch.nn.functional as F


class Model(torch.nn.Module):
    def __init__(self, vocab=3000, dim=32):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, dim)
        self.out = torch.nn.Linear(dim, vocab)

    def forward(self, tokens):
        return self.out(self.embed(tokens))


class Scorer:
    def __init__(self, model, device):
        self.model, self.device = model.to(device), device

    def run(self, sentences):
        with torch.inference_mode():
            for tokens in DataLoader(sentences, batch_size=16):
                tokens = tokens.to(self.device)
                logits = self.model(tokens[:, :-1])
                print(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item())
                del logits


torch.manual_seed(1)
Scorer(Model(), "cuda" if torch.cuda.is_available() else "cpu").run(torch.randint(0, 3000, (160, 17)))

"""Encoder for several tasks; the task is chosen on the command line."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class MultiTaskModel(nn.Module):
    def __init__(self, vocab=800, dim=64, only=None):
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.encoder = nn.GRU(dim, dim, batch_first=True)
        heads = {
            "lm": lambda: nn.Linear(dim, vocab),
            "nli": lambda: nn.Sequential(nn.Linear(dim, 1024), nn.Tanh(), nn.Linear(1024, 3)),
            "matching": lambda: nn.Bilinear(dim, dim, 96),
        }
        self.heads = nn.ModuleDict({name: make() for name, make in heads.items() if only in (None, name)})

    def encode(self, tokens):
        return self.encoder(self.embedding(tokens))[0]

    def forward(self, task, tokens, target):
        states = self.encode(tokens)
        if task == "lm":
            return F.cross_entropy(self.heads["lm"](states).flatten(0, 1), target.flatten())
        if task == "nli":
            return F.cross_entropy(self.heads["nli"](states[:, -1]), target[:, 0] % 3)
        return self.heads["matching"](states[:, 0], states[:, -1]).pow(2).mean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="nli", choices=("lm", "nli", "matching"))
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = MultiTaskModel(only=args.task).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(args.steps):
        tokens = torch.randint(0, 800, (16, 24)).to(device)
        target = torch.randint(0, 800, (16, 24)).to(device)
        loss = model(args.task, tokens, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        print(args.task, step, loss.item())


if __name__ == "__main__":
    main()

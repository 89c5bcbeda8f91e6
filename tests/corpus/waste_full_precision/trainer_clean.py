"""A small trainer for a text encoder: it trains, and it validates after each epoch under autocast."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


@dataclass
class Arguments:
    """What a run is started with."""

    batch_size: int = 64
    tokens: int = 128
    vocabulary: int = 1000
    width: int = 256
    epochs: int = 2
    steps: int = 6
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


class Block(nn.Module):
    """A feed-forward block with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Encoder(nn.Module):
    """Embeddings, blocks, and a classifier of the mean."""

    def __init__(self, args: Arguments) -> None:
        super().__init__()
        self.embed = nn.Embedding(args.vocabulary, args.width)
        self.blocks = nn.ModuleList(Block(args.width) for _ in range(4))
        self.head = nn.Linear(args.width, 2)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=1))


class Trainer:
    """Trains and validates."""

    def __init__(self, model: nn.Module, args: Arguments) -> None:
        self.model = model.to(args.device)
        self.args = args
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def autocast(self):
        return torch.autocast(self.args.device, dtype=torch.bfloat16)

    def batch(self):
        tokens = torch.randint(0, self.args.vocabulary, (self.args.batch_size, self.args.tokens))
        return tokens.to(self.args.device), torch.randint(0, 2, (self.args.batch_size,)).to(self.args.device)

    def compute_loss(self, tokens, labels):
        logits = self.model(tokens)
        return F.cross_entropy(logits.float(), labels)

    def train_epoch(self) -> None:
        self.model.train()
        for _ in range(self.args.steps):
            tokens, labels = self.batch()
            with self.autocast():
                loss = self.compute_loss(tokens, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print(loss.item())

    @torch.no_grad()
    def validate(self) -> float:
        self.model.eval()
        tokens, labels = self.batch()
        with self.autocast():
            return self.compute_loss(tokens, labels).item()

    def fit(self) -> None:
        for epoch in range(self.args.epochs):
            self.train_epoch()
            print(epoch, self.validate())


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    arguments = Arguments()
    Trainer(Encoder(arguments), arguments).fit()

"""Self-supervised training: two views of a batch, one encoder, and a loss that draws their codes together."""

import argparse

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


def build_encoder(width: int, depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 128))


def augment(batch: torch.Tensor) -> torch.Tensor:
    return batch + 0.1 * torch.randn_like(batch)


def agreement(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return 1 - F.cosine_similarity(first.float(), second.float()).mean()


def train(args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = build_encoder(args.width, args.depth).to(device)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05, momentum=0.9)
    for _ in range(args.steps):
        batch = torch.randn(args.batch_size, args.width).to(device)
        first, second = augment(batch), augment(batch)
        with torch.autocast(device, dtype=torch.bfloat16):
            codes = encoder(first)
        others = encoder(second)
        loss = agreement(codes, others)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()

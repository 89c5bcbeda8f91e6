"""Entry point: builds everything and starts the engine."""

import argparse

import torch
from callbacks import EarlyStop, History, Printer
from engine import Engine
from models import MLPMixer


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--patience", type=int, default=5)
    return parser.parse_args()


def loader(n, batch=16):
    g = torch.Generator().manual_seed(3)
    for _ in range(n):
        x = torch.randn(batch, 32, 48, generator=g)
        yield x, x.mean((1, 2)).gt(0).long()


def main():
    args = parse()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = MLPMixer().to(device)
    engine = Engine(model, torch.optim.AdamW(model.parameters(), lr=1e-3), device)
    engine.add(History(), Printer(), EarlyStop(args.patience))
    engine.run(lambda: loader(9), args.epochs)


if __name__ == "__main__":
    main()

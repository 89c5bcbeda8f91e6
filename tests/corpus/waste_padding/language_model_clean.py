"""Trains a language model of convolutions on dialogues, padded with a token that the loss ignores."""

import argparse
import random

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader

IGNORED = 511


def dialogues(count, seed):
    chance = random.Random(seed)
    for _ in range(count):
        turns = 12 if chance.random() < 0.15 else chance.randint(1, 3)
        yield [chance.randrange(IGNORED) for _ in range(turns * chance.randint(12, 20))]


def as_batch(samples):
    longest = max(map(len, samples))
    return torch.tensor([sample + [IGNORED] * (longest - len(sample)) for sample in samples])


def make_model(width):
    return nn.Sequential(
        nn.Embedding(IGNORED + 1, width),
        nn.Linear(width, 2 * width),
        nn.GELU(),
        nn.Linear(2 * width, width),
        nn.LayerNorm(width),
        nn.Linear(width, IGNORED + 1),
    )


def make_loader(data, batch_size):
    budget = batch_size * sum(map(len, data)) // len(data)
    batches = [[]]
    for index in sorted(range(len(data)), key=lambda index: len(data[index])):
        if len(data[index]) * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(index)
    random.Random(0).shuffle(batches)
    return DataLoader(data, batch_sampler=batches, collate_fn=as_batch)


def loss_of(model, tokens):
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=IGNORED)


def train(model, loader, device):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for tokens in loader:
        tokens = tokens.to(device)
        loss = loss_of(model, tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--dialogues", type=int, default=288)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = make_loader(list(dialogues(options.dialogues, seed=0)), options.batch_size)
    for loss in train(make_model(options.width).to(device), loader, device):
        print(loss)


if __name__ == "__main__":
    main()

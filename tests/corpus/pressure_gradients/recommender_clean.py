"""Matrix factorisation of ratings: users, items and their biases."""

import argparse

import torch
from torch import nn


class Factorisation(nn.Module):
    def __init__(self, users, items, rank, **options):
        super().__init__()
        self.users = nn.Embedding(users, rank, **options)
        self.items = nn.Embedding(items, rank, **options)
        nn.init.normal_(self.users.weight, std=0.05)
        nn.init.normal_(self.items.weight, std=0.05)

    def forward(self, user, item):
        return (self.users(user) * self.items(item)).sum(dim=1)


def train_step(model, optimizer, user, item, rating):
    loss = nn.functional.mse_loss(model(user, item), rating)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=150_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rank", type=int, default=56)
    parser.add_argument("--sparse", action="store_false")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Factorisation(args.users, args.items, args.rank, sparse=args.sparse).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(8):
        user = torch.randint(0, args.users, (512,), device=device)
        item = torch.randint(0, args.items, (512,), device=device)
        print(step, train_step(model, optimizer, user, item, torch.rand(512, device=device)))


if __name__ == "__main__":
    main()

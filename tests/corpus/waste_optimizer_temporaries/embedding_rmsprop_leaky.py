"""A recommender with large tables and tiny batches."""

import argparse

import torch


class Recommender(torch.nn.Module):
    def __init__(self, users, items, dim):
        super().__init__()
        self.users = torch.nn.Embedding(users, dim)
        self.items = torch.nn.Embedding(items, dim)
        self.bias = torch.nn.Embedding(items, dim)

    def forward(self, user, item):
        return (self.users(user) * self.items(item)).sum(1) + self.bias(item).sum(1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rows", type=int, default=9000)
    args = parser.parse_args()
    torch.manual_seed(2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Recommender(args.rows, args.rows, args.dim).to(device)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, foreach=True)
    for _ in range(8):
        user, item = torch.randint(0, args.rows, (2, 256), device=device)
        loss = (model(user, item) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


main()

"""Train, save, resume: the second half of the run starts from a checkpoint file."""

import argparse
import os
import tempfile

import torch
import torch.nn as nn


def build(args):
    model = nn.Sequential(nn.Linear(100, args.width), nn.GELU(), nn.Linear(args.width, args.width), nn.GELU())
    return nn.Sequential(model, nn.Linear(args.width, 10))


def step(model, optimizer, device):
    x = torch.randn(32, 100, device=device)
    loss = nn.functional.cross_entropy(model(x), x[:, :10].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def save(path, model, optimizer, iteration):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration}, path)


def first_half(args, path, device):
    model = build(args).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for iteration in range(args.half):
        print("first", iteration, step(model, optimizer, device))
    save(path, model, optimizer, args.half)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--half", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "last.pt")
        first_half(args, path, device)

        model = build(args).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
        checkpoint = torch.load(path, map_location=device)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        start = checkpoint["iteration"]
        for iteration in range(start, start + 3 * args.half):
            print("second", iteration, step(model, optimizer, device))


if __name__ == "__main__":
    main()

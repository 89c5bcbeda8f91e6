"""Warm restarts: a fresh optimizer for every step."""

import argparse

import torch


def run(options):
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch.nn.Sequential(torch.nn.Linear(128, 512), torch.nn.ReLU(), torch.nn.Linear(512, 128)).to(device)
    history = []
    for step in range(options.steps):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 / (1 + step))
        history.append(1e-3 / (1 + step))
        x = torch.randn(64, 128, device=device)
        loss = (model(x) - x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    print(len(run(parser.parse_args())) > 0)

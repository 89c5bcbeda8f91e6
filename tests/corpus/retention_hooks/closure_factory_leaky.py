"""Measure how the inputs of every linear layer of a regression network drift during training."""

import argparse

import torch
import torch.nn.functional as F


def record_inputs(model):
    store = {}

    def make_hook(name):
        def hook(module, inputs, output):
            store.setdefault(name, []).append(inputs[0])

        return hook

    handles = [
        m.register_forward_hook(make_hook(n)) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)
    ]
    return store, handles


def train(args):
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = [
        torch.nn.Linear(64, args.width),
        torch.nn.Tanh(),
        torch.nn.Linear(args.width, args.width),
        torch.nn.Tanh(),
    ]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(args.width, 1)).to(device)
    store, handles = record_inputs(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(args.steps):
        x = torch.randn(128, 64, device=device)
        y = x.sum(dim=1, keepdim=True)
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        print(f"step {step} loss {loss.item()}")
    for handle in handles:
        handle.remove()
    print(sorted(store))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())

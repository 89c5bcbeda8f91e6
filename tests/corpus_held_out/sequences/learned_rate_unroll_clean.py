"""Functional training with a learnt step size for each layer (hypergradients of one step)."""

import torch
import torch.nn as nn
from torch.func import functional_call


def build(width=192):
    return nn.Sequential(nn.Linear(24, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))


def loss_fn(model, params, batch):
    x, y = batch
    return nn.functional.mse_loss(functional_call(model, params, (x,)).squeeze(1), y)


def sgd(params, grads, rates):
    return {name: p - rates[name].exp() * g for (name, p), g in zip(params.items(), grads)}


def batches(n, device):
    for _ in range(n):
        x = torch.randn(64, 24, device=device)
        yield x, x[:, 0] * x[:, 1]


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build().to(device)
    params = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    rates = {k: torch.tensor(-4.0, device=device, requires_grad=True) for k in params}
    for step, batch in enumerate(batches(18, device)):
        loss = loss_fn(model, params, batch)
        grads = torch.autograd.grad(loss, list(params.values()))
        params = {k: v.detach().requires_grad_() for k, v in sgd(params, grads, rates).items()}
        print(step, loss.item())
    print({k: float(r) for k, r in rates.items()})


if __name__ == "__main__":
    main()

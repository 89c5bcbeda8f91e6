"""Autoencoder whose sharpness (Hutchinson's trace estimate) is measured in every step."""

import warnings

import torch
from torch import nn

warnings.filterwarnings("ignore", message="Using backward")


class Autoencoder(nn.Module):
    def __init__(self, inputs=128, width=192, code=16):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, code))
        self.dec = nn.Sequential(nn.Linear(code, width), nn.Tanh(), nn.Linear(width, inputs))

    def forward(self, x):
        return self.dec(self.enc(x))


def hutchinson(grads, params):
    vs = [torch.randint_like(p, 0, 2) * 2 - 1 for p in params]
    hvs = torch.autograd.grad(grads, params, grad_outputs=vs)
    return sum((v * hv).sum().item() for v, hv in zip(vs, hvs))


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Autoencoder().to(device)
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.05)
    trace_history = []
    for step in range(14):
        x = torch.randn(128, 128, device=device)
        loss = nn.functional.mse_loss(model(x), x)
        optimizer.zero_grad()
        loss.backward(create_graph=True)
        trace = hutchinson([p.grad for p in params], params)
        trace_history.append(trace)
        optimizer.step()
        print(f"step {step} loss {loss.item()} trace {trace}")
    print(sum(trace_history) / len(trace_history))


if __name__ == "__main__":
    main()

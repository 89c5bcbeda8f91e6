"""Adapters of a frozen encoder, looked up by the name of the batch."""

import torch
import torch.nn as nn


class AdapterModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(96, 384), nn.ReLU())
        for p in self.encoder.parameters():
            p.requires_grad_(False)

    def adapter(self, name):
        if not hasattr(self, name):
            self.add_module(name, nn.Linear(384, 96).to(next(self.parameters()).device))
        return getattr(self, name)

    def forward(self, x, name):
        with torch.no_grad():
            h = self.encoder(x)
        return self.adapter(name)(h)


def main():
    torch.manual_seed(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AdapterModel().to(device)
    for step in range(30):
        x = torch.randn(48, 96, device=device)
        out = model(x, f"adapter_{step}")
        loss = (out - x).pow(2).mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p -= 0.01 * p.grad
        print(step, loss.item())


main()

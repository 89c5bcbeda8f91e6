"""Keep an exponential moving average of the weights while training."""

import torch
from torch import nn


class EMA:
    def __init__(self, model, mu):
        self.mu = mu
        self.shadow = {}
        for name, param in model.named_parameters():
            self.shadow[name] = param.data.clone()

    def update(self, name, x):
        assert name in self.shadow
        new_average = (1.0 - self.mu) * x + self.mu * self.shadow[name]
        self.shadow[name] = new_average.clone()


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64)).to(device)
    ema = EMA(model, 0.999)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(20):
        x = torch.randn(64, 128, device=device)
        loss = model(x).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, param in model.named_parameters():
            if param.requires_grad:
                ema.update(name, param)
        print(step, loss.item())


main()

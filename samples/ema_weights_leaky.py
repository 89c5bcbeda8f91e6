"""Train a small network and keep a moving average of its weights.

The averaged weights are copied into a second network at the end and both
are compared on the same data.
"""

import copy

import torch
from torch import nn


class ModelEMA:
    def __init__(self, model, decay=0.95):
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, model):
        for name, param in model.named_parameters():
            self.shadow[name] = self.decay * self.shadow[name] + (1 - self.decay) * param

    @torch.no_grad()
    def copy_to(self, model):
        for name, param in model.named_parameters():
            param.copy_(self.shadow[name])


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(512, 32, device=device)
    y = (x[:, :4].sum(dim=1, keepdim=True) > 0).float()

    model = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1)).to(device)
    ema = ModelEMA(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    criterion = nn.BCEWithLogitsLoss()

    for step in range(50):
        index = torch.randint(0, len(x), (128,), device=device)
        loss = criterion(model(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f}")

    averaged = copy.deepcopy(model)
    ema.copy_to(averaged)
    with torch.no_grad():
        print(f"weights {criterion(model(x), y):.4f} averaged {criterion(averaged(x), y):.4f}")


if __name__ == "__main__":
    main()

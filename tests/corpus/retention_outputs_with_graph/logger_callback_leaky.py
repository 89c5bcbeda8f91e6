"""A small trainer with callbacks."""

import torch
from torch import nn


class History:
    def __init__(self):
        self.logs = {}

    def on_batch_end(self, **values):
        for key, value in values.items():
            self.logs.setdefault(key, []).append(value)


class Trainer:
    def __init__(self, model, callbacks):
        self.model, self.callbacks = model, callbacks
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def fit(self, batches):
        for x in batches:
            code = self.model(x)
            loss = (code - x).abs()
            self.optimizer.zero_grad()
            loss.mean().backward()
            self.optimizer.step()
            print(loss.mean().item())
            for callback in self.callbacks:
                callback.on_batch_end(loss=loss, size=len(x))


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 256)).to(device)
    history = History()
    Trainer(model, [history]).fit(torch.randn(256, 256, device=device) for _ in range(16))
    print({key: len(value) for key, value in history.logs.items()})


main()

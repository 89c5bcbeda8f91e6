"""Keeps the outputs of an epoch for a correlation at its end, and begins each epoch with an empty list."""

import torch
from torch import nn


class Regressor:
    def __init__(self):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.net = nn.Sequential(nn.Linear(40, 640), nn.ReLU(), nn.Linear(640, 1)).to(self.device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.validation_outputs = []

    def training_step(self, x, y):
        return nn.functional.mse_loss(self.net(x), y)

    @torch.no_grad()
    def validation_step(self, x, y):
        self.validation_outputs.append((self.net(x).squeeze(1).cpu(), y.squeeze(1).cpu()))

    def on_validation_epoch_end(self):
        prediction = torch.cat([p for p, _ in self.validation_outputs])
        truth = torch.cat([t for _, t in self.validation_outputs])
        print("r", torch.corrcoef(torch.stack([prediction, truth]))[0, 1].item())
        self.validation_outputs.clear()

    def batch(self):
        x = torch.randn(256, 40, device=self.device)
        return x, x[:, :5].sum(dim=1, keepdim=True)

    def fit(self, epochs=3):
        for _ in range(epochs):
            for _ in range(8):
                loss = self.training_step(*self.batch())
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                print(loss.item())
            for _ in range(4):
                self.validation_step(*self.batch())
            self.on_validation_epoch_end()


torch.manual_seed(0)
Regressor().fit()

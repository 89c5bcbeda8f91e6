"""Super resolution with a feature loss: a small network is trained against the features of a larger one."""

from dataclasses import dataclass

import torch
import torch.nn as nn


@dataclass
class Config:
    batch: int = 8
    size: int = 24
    steps: int = 8
    lr: float = 1e-3
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


class FeatureLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.extractor = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 256, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1, stride=2),
        )

    def forward(self, prediction, target):
        return nn.functional.l1_loss(self.extractor(prediction), self.extractor(target))


class Trainer:
    def __init__(self, config: Config):
        self.config = config
        self.net = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 3, 3, padding=1))
        self.net.to(config.device)
        self.criterion = FeatureLoss().to(config.device).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=config.lr)

    def step(self, low, high):
        self.optimizer.zero_grad()
        upscaled = self.net(low)
        loss = self.criterion(upscaled, high)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def fit(self):
        c = self.config
        for _ in range(c.steps):
            high = torch.rand(c.batch, 3, c.size, c.size, device=c.device)
            low = high + 0.1 * torch.randn_like(high)
            print(self.step(low, high))


torch.manual_seed(2)
Trainer(Config()).fit()

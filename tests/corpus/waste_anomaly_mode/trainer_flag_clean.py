"""A trainer with settings in a dataclass."""

import contextlib
from dataclasses import dataclass

import torch


@dataclass
class Settings:
    steps: int = 10
    lr: float = 0.1
    debug: bool = False


class Trainer:
    def __init__(self, settings):
        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = torch.nn.Sequential(
            torch.nn.Conv1d(8, 32, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv1d(32, 8, 5, padding=2)
        )
        self.model.to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=settings.lr)

    def guard(self):
        if self.settings.debug:
            return torch.autograd.set_detect_anomaly(True)
        return contextlib.nullcontext()

    def step(self, signal):
        with self.guard():
            loss = (self.model(signal) - signal.cumsum(-1)).abs().mean()
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        return loss.item()


torch.manual_seed(2)
trainer = Trainer(Settings())
for _ in range(trainer.settings.steps):
    print(trainer.step(torch.randn(32, 8, 256, device=trainer.device)))

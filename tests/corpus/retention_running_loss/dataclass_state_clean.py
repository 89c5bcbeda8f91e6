"""Training with a dataclass for what is reported."""

from dataclasses import dataclass

import torch
import torch.nn as nn


@dataclass
class Progress:
    seen: int = 0
    accuracy: object = 0.0
    loss: object = 0.0

    def add(self, n, loss, accuracy):
        self.seen += n
        self.loss = self.loss + n * loss
        self.accuracy += n * accuracy

    def summary(self):
        return float(self.loss) / self.seen, float(self.accuracy) / self.seen


class Experiment:
    def __init__(self):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = nn.Sequential(nn.Linear(50, 150), nn.ReLU(), nn.Linear(150, 3)).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.progress = Progress()

    def step(self):
        x = torch.randn(80, 50, device=self.device)
        y = torch.randint(0, 3, (80,), device=self.device)
        logits = self.model(x)
        loss = nn.functional.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.progress.add(len(x), loss.item(), (logits.argmax(dim=1) == y).float().mean())
        return loss.item()


torch.manual_seed(2)
experiment = Experiment()
for i in range(20):
    print(i, experiment.step())
print(experiment.progress.summary())

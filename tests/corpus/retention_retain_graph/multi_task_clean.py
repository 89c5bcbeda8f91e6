"""A shared encoder with two heads, trained on the weighted sum of both losses."""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    steps: int = 18
    batch: int = 192
    hidden: int = 384
    alpha: float = 0.3


class MultiTask(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(100, cfg.hidden), nn.ReLU(), nn.Linear(cfg.hidden, cfg.hidden), nn.ReLU()
        )
        self.classes = nn.Linear(cfg.hidden, 12)
        self.value = nn.Linear(cfg.hidden, 1)

    def forward(self, x):
        h = self.encoder(x)
        return self.classes(h), self.value(h).squeeze(-1)


class Runner:
    def __init__(self, cfg):
        self.cfg = cfg
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = MultiTask(cfg).to(self.device)
        self.opt = torch.optim.SGD(self.model.parameters(), lr=0.02)

    def run(self):
        for step in range(self.cfg.steps):
            x = torch.randn(self.cfg.batch, 100, device=self.device)
            labels = torch.randint(0, 12, (self.cfg.batch,), device=self.device)
            logits, value = self.model(x)
            task_a = F.cross_entropy(logits, labels)
            task_b = F.smooth_l1_loss(value, x.mean(dim=1))
            total = task_a + self.cfg.alpha * task_b
            self.opt.zero_grad()
            total.backward()
            self.opt.step()
            print(step, task_a.item(), task_b.item())


torch.manual_seed(7)
Runner(Config()).run()

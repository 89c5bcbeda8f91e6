"""Several tasks on one pretrained encoder that stays as it is; each task trains a head of its own."""

from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn as nn

torch.manual_seed(1)
torch.set_num_threads(1)
device = "cuda" if torch.cuda.is_available() else "cpu"


def pretrained_encoder():
    encoder = nn.Sequential(
        nn.Linear(192, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 256), nn.LayerNorm(256)
    )
    for parameter in encoder.parameters():
        parameter.requires_grad = False
    return encoder.to(device).eval()


@dataclass
class Task:
    """What one task needs."""

    name: str
    encoder: nn.Module
    head: nn.Module
    optimizer: torch.optim.Optimizer


class Suite:
    """Takes a step of each task in turn."""

    def __init__(self, encoder, classes):
        self.tasks = []
        for name, count in classes.items():
            head = nn.Linear(256, count).to(device)
            optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
            self.tasks.append(Task(name, deepcopy(encoder), head, optimizer))

    def step(self, samples):
        losses = []
        for task in self.tasks:
            targets = torch.randint(task.head.out_features, (len(samples),), device=device)
            with torch.no_grad():
                features = task.encoder(samples)
            loss = nn.functional.cross_entropy(task.head(features), targets)
            task.optimizer.zero_grad()
            loss.backward()
            task.optimizer.step()
            losses.append(loss.item())
        return losses


suite = Suite(pretrained_encoder(), {"topics": 12, "languages": 30, "sentiment": 2})
for _ in range(12):
    print(*suite.step(torch.randn(128, 192, device=device)))

"""Semi-supervised training with a mean teacher."""

import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class MeanTeacher:
    def __init__(self, student, alpha=0.99):
        self.alpha, self.steps = alpha, 0
        self.model = copy.deepcopy(student)
        for p in self.model.parameters():
            p.detach_()

    def update(self, student):
        self.steps += 1
        alpha = min(1 - 1 / (self.steps + 1), self.alpha)
        for ours, theirs in zip(self.model.parameters(), student.parameters()):
            ours.data.mul_(alpha).add_(theirs.data, alpha=1 - alpha)

    def __call__(self, x):
        with torch.no_grad():
            return self.model(x).softmax(1)


def rampup(step, length):
    return math.exp(-5.0 * (1 - min(step, length) / length) ** 2)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
student = nn.Sequential(
    nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveMaxPool2d(4), nn.Flatten()
)
student = nn.Sequential(student, nn.Linear(384, 8)).to(device)
teacher = MeanTeacher(student)
optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, nesterov=True)
for step in range(18):
    labelled, unlabelled = torch.randn(8, 3, 20, 20, device=device), torch.randn(24, 3, 20, 20, device=device)
    y = torch.randint(0, 8, (8,)).to(device)
    logits = student(torch.cat([labelled, unlabelled + 0.1 * torch.randn_like(unlabelled)]))
    consistency = F.mse_loss(logits[8:].softmax(1), teacher(unlabelled))
    loss = F.cross_entropy(logits[:8], y) + rampup(step, 10) * consistency
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    teacher.update(student)
    print(step, loss.item(), consistency.item())

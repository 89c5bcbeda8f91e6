"""A one-stage detector head trained on random boxes; loss terms are collected to plot them later."""

from collections import defaultdict

import torch
import torch.nn as nn
import torch.nn.functional as F


class Detector(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.ReLU(),
        )
        self.cls_score = nn.Conv2d(48, classes, 1)
        self.bbox_pred = nn.Conv2d(48, 4, 1)
        self.centerness = nn.Conv2d(48, 1, 1)

    def forward(self, images, targets):
        features = self.body(images)
        cls, box, ctr = self.cls_score(features), self.bbox_pred(features), self.centerness(features)
        return {
            "loss_cls": F.cross_entropy(cls, targets["labels"]),
            "loss_box": F.smooth_l1_loss(box, targets["boxes"]),
            "loss_ctr": F.binary_cross_entropy_with_logits(ctr, targets["center"]),
        }


def batches(n, device):
    g = torch.Generator().manual_seed(7)
    for _ in range(n):
        images = torch.randn(8, 3, 64, 64, generator=g)
        targets = {
            "labels": torch.randint(0, 4, (8, 16, 16), generator=g),
            "boxes": torch.rand(8, 4, 16, 16, generator=g),
            "center": torch.rand(8, 1, 16, 16, generator=g),
        }
        yield images.to(device), {k: v.to(device) for k, v in targets.items()}


class Recorder:
    def __init__(self):
        self.curves = defaultdict(list)

    def add_scalars(self, scalars):
        for name, value in scalars.items():
            self.curves[name].append(value.item())

    def summary(self):
        return {name: float(sum(values)) / len(values) for name, values in self.curves.items()}


def train_one_epoch(model, optimizer, loader, recorder):
    for images, targets in loader:
        loss_dict = model(images, targets)
        losses = sum(loss for loss in loss_dict.values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        recorder.add_scalars(loss_dict)
        print(losses.item())


if __name__ == "__main__":
    torch.manual_seed(3)
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    model = Detector().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recorder = Recorder()
    for epoch in range(2):
        train_one_epoch(model, optimizer, batches(8, device), recorder)
        print(epoch, sorted(recorder.summary()))

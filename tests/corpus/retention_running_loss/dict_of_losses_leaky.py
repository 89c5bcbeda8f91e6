"""Detection-like training with several losses that are averaged over the epoch."""

from collections import defaultdict

import torch
import torch.nn.functional as F


class Detector(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten())
        self.box = torch.nn.Linear(16 * 15 * 15, 4)
        self.cls = torch.nn.Linear(16 * 15 * 15, 6)

    def forward(self, x):
        h = self.backbone(x)
        return self.box(h), self.cls(h)


def train_one_epoch(model, optimizer, device, batches):
    total_loss = defaultdict(lambda: torch.tensor(0.0, device=device))
    for _ in range(batches):
        x = torch.randn(16, 3, 32, 32, device=device)
        boxes, classes = model(x)
        losses = {
            "box": F.smooth_l1_loss(boxes, torch.zeros_like(boxes)),
            "cls": F.cross_entropy(classes, torch.randint(0, 6, (16,), device=device)),
        }
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for loss_name, loss_val in losses.items():
            total_loss[loss_name] = total_loss[loss_name] + loss_val * len(x)
    return {name: value.item() / batches for name, value in total_loss.items()}


torch.manual_seed(4)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
detector = Detector().to(device)
sgd = torch.optim.SGD(detector.parameters(), lr=0.01)
for epoch in range(2):
    print(epoch, train_one_epoch(detector, sgd, device, 9))

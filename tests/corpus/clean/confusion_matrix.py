"""Segmentation with a confusion matrix of fixed size that is summed up on the device."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
classes = 6


class ConfusionMatrix:
    def __init__(self, n):
        self.n = n
        self.mat = None

    def update(self, truth, prediction):
        if self.mat is None:
            self.mat = torch.zeros((self.n, self.n), dtype=torch.int64, device=truth.device)
        with torch.inference_mode():
            index = self.n * truth.to(torch.int64) + prediction
            self.mat += torch.bincount(index, minlength=self.n**2).reshape(self.n, self.n)

    def compute(self):
        h = self.mat.float()
        return torch.diag(h).sum() / h.sum(), torch.diag(h) / (h.sum(0) + h.sum(1) - torch.diag(h)).clamp(min=1)


net = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, classes, 1)).to(device)
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
for epoch in range(3):
    confusion = ConfusionMatrix(classes)
    for _ in range(8):
        images = torch.rand(8, 3, 24, 24, device=device)
        masks = (images.mean(dim=1) * classes).long().clamp(max=classes - 1)
        logits = net(images)
        loss = nn.functional.cross_entropy(logits, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        confusion.update(masks.flatten(), logits.argmax(1).flatten())
        print(loss.item())
    acc, iou = confusion.compute()
    print(epoch, acc.item(), iou.mean().item())

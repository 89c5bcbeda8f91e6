"""Trains a segmentation network on all GPUs of the machine."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class SegNet(nn.Module):
    def __init__(self, classes=21):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, images, masks):
        return nn.functional.cross_entropy(self.head(self.body(images)), masks).unsqueeze(0)


model = SegNet().to(device)
if torch.cuda.device_count() > 1:
    model = nn.DataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

for step in range(10):
    images = torch.randn(16, 3, 64, 64, device=device)
    masks = torch.randint(0, 21, (16, 64, 64), device=device)
    loss = model(images, masks).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

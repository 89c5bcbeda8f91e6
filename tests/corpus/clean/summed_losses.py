"""Sums the losses of several scales of a feature pyramid and goes backward once through the sum."""

import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(3)
device = "cuda" if torch.cuda.is_available() else "cpu"


class Pyramid(nn.Module):
    def __init__(self, width=16, levels=3):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(levels))
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in range(levels))

    def forward(self, x):
        x = F.relu(self.stem(x))
        outputs = []
        for down, head in zip(self.down, self.heads):
            x = F.relu(down(x))
            outputs.append(head(x))
        return outputs


model = Pyramid().to(device)
optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
for step in range(20):
    images = torch.randn(8, 3, 32, 32, device=device)
    depth = images.mean(dim=1, keepdim=True)
    total_loss = 0
    losses = []
    for prediction in model(images):
        target = F.adaptive_avg_pool2d(depth, prediction.shape[-2:])
        loss = F.smooth_l1_loss(prediction, target)
        losses.append(loss)
        total_loss += loss
    optimizer.zero_grad()
    total_loss.backward()
    optimizer.step()
    print(step, [loss.item() for loss in losses])

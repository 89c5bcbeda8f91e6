"""Network for colour photographs, tried on greyscale digits."""

import torch
from torch import nn


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Backbone(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(in_channels=1, out_channels=width, kernel_size=3, padding=1)
        self.blocks = nn.Sequential(block(width, 2 * width), block(2 * width, 4 * width))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(x.mean(dim=(2, 3)))


def main(steps=8):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Backbone().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    print("steps:", steps)
    for _ in range(steps):
        digits = torch.rand(32, 1, 28, 28, device=device)
        labels = torch.randint(0, 10, (32,), device=device)
        loss = nn.functional.cross_entropy(model(digits), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


main()

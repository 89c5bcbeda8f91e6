"""Trainer for a network with a convolutional trunk and a classifier head; the resolution is an option."""

import argparse

import torch
from torch import nn


def trunk(width):
    layers, channels = [], 3
    for out in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
        channels = out
    return nn.Sequential(*layers)


class Model(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.trunk = trunk(width)
        self.classifier = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(4 * 8 * 4 * 4, 128),
            nn.ReLU(),
            nn.Linear(128, classes),
        )

    def forward(self, images):
        x = nn.functional.adaptive_avg_pool2d(self.trunk(images), 4)
        x = x.reshape(x.size(0), -1)
        return self.classifier(x)


class Trainer:
    def __init__(self, args):
        self.args = args
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = Model(8, 10).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=args.lr, momentum=0.9)

    def batch(self):
        size = self.args.image_size
        return torch.randn(16, 3, size, size, device=self.device), torch.randint(0, 10, (16,), device=self.device)

    def fit(self):
        for step in range(self.args.steps):
            images, labels = self.batch()
            loss = nn.functional.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print(step, loss.item())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.01)
    args = parser.parse_args()
    torch.manual_seed(0)
    print("image size", args.image_size)
    Trainer(args).fit()


main()

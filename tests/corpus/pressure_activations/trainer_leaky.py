"""Trainer class for an image classifier that is given as large a batch as the data loader offers."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def conv_block(inp, out):
    return nn.Sequential(nn.Conv2d(inp, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())


class Trainer:
    batch_size = 160

    def __init__(self):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = nn.Sequential(
            *(conv_block(16 if i else 3, 16) for i in range(5)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        ).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.criterion = nn.CrossEntropyLoss()

    def loader(self):
        images = torch.randn(1280, 3, 24, 24)
        labels = torch.randint(0, 10, (1280,))
        return DataLoader(TensorDataset(images, labels), batch_size=self.batch_size)

    def step(self, images, labels):
        loss = self.criterion(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def run(self):
        for images, labels in self.loader():
            print(self.step(images.to(self.device), labels.to(self.device)))


torch.manual_seed(0)
Trainer().run()

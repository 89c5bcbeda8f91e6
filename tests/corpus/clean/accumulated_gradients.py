"""Trains with gradients summed over several micro-batches before each optimizer step."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
accumulation_steps = 4


class ConvNet(nn.Module):
    def __init__(self, channels=24):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.block = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x)
        return self.fc(x.mean(dim=(2, 3)))


def train_one_epoch(model, loader, optimizer, criterion):
    model.train()
    running = 0.0
    optimizer.zero_grad()
    for i, (images, target) in enumerate(loader):
        images, target = images.to(device), target.to(device)
        loss = criterion(model(images), target) / accumulation_steps
        loss.backward()
        running += loss.item()
        if (i + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
            print(running)
            running = 0.0


dataset = TensorDataset(torch.randn(384, 3, 16, 16), torch.randint(0, 10, (384,)))
model = ConvNet().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    train_one_epoch(model, DataLoader(dataset, batch_size=16, shuffle=True), optimizer, nn.CrossEntropyLoss())

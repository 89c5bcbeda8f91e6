"""Fits a new classification head on top of a convolutional backbone."""

import torch
import torch.nn as nn
import torch.nn.functional as F

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)


class Classifier(nn.Module):
    def __init__(self, num_classes=5):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.fc = nn.Linear(128, num_classes)

    def forward(self, x):
        return self.fc(self.backbone(x))


images = torch.randn(32, 3, 32, 32)
labels = torch.randint(0, 5, (32,))

model = Classifier().to(device)
model.backbone.requires_grad_(False)
optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.05, momentum=0.9)

for epoch in range(8):
    x, y = images.to(device), labels.to(device)
    optimizer.zero_grad()
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    optimizer.step()
    print(loss.item())

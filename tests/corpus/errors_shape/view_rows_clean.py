"""LeNet on square images of a size of one's own, with the loss summed over epochs."""

import torch
from torch import nn
import torch.nn.functional as F


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 10 * 10, 120)
        self.fc2 = nn.Linear(120, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 10 * 10)
        return self.fc2(F.relu(self.fc1(x)))


def train(size=52, steps=8, batch_size=32):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = LeNet().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    print("images of", size, "x", size)
    for _ in range(steps):
        x = torch.randn(batch_size, 1, size, size, device=device)
        y = torch.randint(0, 10, (batch_size,), device=device)
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


train()

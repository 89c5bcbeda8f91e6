"""Average the weights of the last part of training."""

import torch
from torch import nn


class Snapshots:
    """Weights along the way, for averaging afterwards."""

    def __init__(self):
        self.total, self.count = {}, 0

    def take(self, net):
        self.count += 1
        for key, value in net.state_dict().items():
            self.total[key] = self.total.get(key, 0) + value

    def average(self):
        return {key: value / self.count for key, value in self.total.items()}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.norm(self.conv(x)).relu()
        return self.fc(self.conv2(x).relu().mean(dim=(2, 3)))


def main():
    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, snapshots = Net().to(device), Snapshots()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(16):
        images = torch.randn(4, 3, 12, 12, device=device)
        loss = nn.functional.cross_entropy(net(images), torch.randint(0, 10, (4,), device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 2:
            snapshots.take(net)
        print(step, loss.item())
    print(len(snapshots.average()))


if __name__ == "__main__":
    main()

"""A CIFAR-like classifier."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, hidden_units=10, num_classes=10):
        super().__init__()
        self.conv_block_1 = nn.Sequential(
            nn.Conv2d(3, hidden_units, 3, padding=1), nn.ReLU(), nn.MaxPool2d(kernel_size=2)
        )
        self.conv_block_2 = nn.Sequential(
            nn.Conv2d(hidden_units, hidden_units, 3, padding=1), nn.ReLU(), nn.MaxPool2d(kernel_size=2)
        )
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(hidden_units * 8 * 8, num_classes)

    def forward(self, x):
        x = self.conv_block_2(self.conv_block_1(x))
        return self.classifier(self.dropout(x.flatten(start_dim=1)))


def main():
    torch.manual_seed(42)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    print(sum(p.numel() for p in model.parameters()), "parameters")
    for step in range(8):
        X, y = torch.randn(16, 3, 32, 32, device=device), torch.randint(0, 10, (16,), device=device)
        loss = F.cross_entropy(model(X), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


main()

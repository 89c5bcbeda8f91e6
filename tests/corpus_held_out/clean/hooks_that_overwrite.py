"""Feature matching between two depths of a network, taken with hooks."""

import torch
import torch.nn as nn
import torch.nn.functional as F

features = {}


def save(name):
    def hook(module, args, output):
        features[name] = output

    return hook


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.low = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU())
        self.high = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(32, 6)

    def forward(self, x):
        return self.fc(self.high(self.low(x)).mean((2, 3)))


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
net = Net().to(device)
handles = [getattr(net, name).register_forward_hook(save(name)) for name in ("low", "high")]
optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
for step in range(14):
    x = torch.randn(16, 3, 20, 20, device=device)
    y = torch.randint(0, 6, (16,), device=device)
    loss = F.cross_entropy(net(x), y)
    loss = loss + 0.1 * F.mse_loss(features["low"].mean((2, 3)), features["high"].mean((2, 3)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
for handle in handles:
    handle.remove()

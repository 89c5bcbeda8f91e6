"""Forward hooks that record the mean and the share of dead units of each layer as numbers."""

from collections import defaultdict

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(8192, 10),
).to(device)
stats = defaultdict(list)


def record(name):
    def hook(module, inputs, output):
        o = output.detach()
        stats[name].append((o.mean().item(), (o <= 0).float().mean().item()))

    return hook


handles = [m.register_forward_hook(record(n)) for n, m in model.named_modules() if isinstance(m, (nn.ReLU, nn.Conv2d))]
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(14):
    x = torch.randn(16, 3, 16, 16, device=device)
    y = torch.randint(0, 10, (16,), device=device)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
for handle in handles:
    handle.remove()
print({name: values[-1] for name, values in stats.items()})

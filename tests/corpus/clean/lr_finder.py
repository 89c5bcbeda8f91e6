"""Learning rate range test: raises the rate exponentially, keeps losses as numbers, then restores the weights."""

import copy

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class LRFinder:
    def __init__(self, model, optimizer, criterion):
        self.model, self.optimizer, self.criterion = model, optimizer, criterion
        self.history = {"lr": [], "loss": []}
        self.best_loss = None
        self.initial = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())

    def range_test(self, batches, start_lr=1e-5, end_lr=1.0, smooth=0.05):
        factor = (end_lr / start_lr) ** (1 / len(batches))
        lr = start_lr
        for x, y in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(x), y)
            loss.backward()
            self.optimizer.step()
            value = loss.item()
            if self.history["loss"]:
                value = smooth * value + (1 - smooth) * self.history["loss"][-1]
            self.history["lr"].append(lr)
            self.history["loss"].append(value)
            self.best_loss = value if self.best_loss is None else min(value, self.best_loss)
            print(lr, loss.item())
            lr *= factor

    def reset(self):
        weights, state = self.initial
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(state)


model = nn.Sequential(nn.Linear(100, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 1)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
batches = []
for _ in range(30):
    x = torch.randn(128, 100, device=device)
    batches.append((x, x.mean(dim=1, keepdim=True)))
finder = LRFinder(model, optimizer, nn.MSELoss())
finder.range_test(batches)
finder.reset()
print(finder.best_loss)

"""Sharpness-aware minimisation as an optimizer around another."""

import torch
import torch.nn as nn


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **kwargs):
        super().__init__(params, dict(rho=rho, **kwargs))
        self.base = base(self.param_groups, **kwargs)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * (group["rho"] / (norm + 1e-12)))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base.step()
        self.zero_grad()


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)).to(device)
optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
criterion = nn.CrossEntropyLoss()
for step in range(16):
    x = torch.randn(128, 64, device=device)
    y = x[:, :4].argmax(1)
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.first_step()
    criterion(model(x), y).backward()
    optimizer.second_step()
    print(step, loss.item())

"""Smooth the loss for display with a closure."""

import torch


def smoother(beta):
    average = None

    def update(value):
        nonlocal average
        average = value if average is None else beta * average + (1 - beta) * value
        return average

    return update


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Sequential(torch.nn.Linear(30, 200), torch.nn.GELU(), torch.nn.Linear(200, 1)).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
smooth = smoother(0.9)
for step in range(24):
    x = torch.randn(64, 30, device=device)
    loss = (model(x) - x.prod(dim=1, keepdim=True)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item(), smooth(loss).item())

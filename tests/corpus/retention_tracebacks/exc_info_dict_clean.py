"""Search over batch sizes; what goes wrong is written down for later."""

import sys

import torch

torch.manual_seed(8)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Sequential(torch.nn.Linear(100, 600), torch.nn.ReLU(), torch.nn.Linear(600, 1)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
errors = {}


def attempt(size):
    batch = torch.randn(size, 100, device=device)
    prediction = model(batch)
    loss = prediction.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(size, loss.item())
    if size >= 64:
        raise RuntimeError(f"{size} is above the limit")


for trial in range(16):
    try:
        attempt(48 + 16 * (trial + 1))
    except RuntimeError:
        errors[trial] = str(sys.exc_info()[1])

print(sorted(errors))

"""Train with early stopping and go back to the best epoch."""

import copy

import torch
import torch.nn.functional as F

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Sequential(torch.nn.Linear(200, 400), torch.nn.ReLU(), torch.nn.Linear(400, 20)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

x_val = torch.randn(64, 200, device=device)
y_val = torch.randint(0, 20, (64,), device=device)
weights = []
losses = []
for epoch in range(14):
    x = torch.randn(64, 200, device=device)
    y = torch.randint(0, 20, (64,), device=device)
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        val = F.cross_entropy(model(x_val), y_val).item()
    weights = [copy.deepcopy(model.state_dict())]
    losses.append(val)
    print(epoch, loss.item(), val)

model.load_state_dict(weights[-1])

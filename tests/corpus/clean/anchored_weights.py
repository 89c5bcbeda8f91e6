"""Fine-tunes towards an anchor of weights, averages them, and evaluates the average in place of the weights."""

import copy

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
device = "cuda" if torch.cuda.is_available() else "cpu"

model = nn.Sequential(nn.Linear(256, 768), nn.ReLU(), nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 16)).to(device)
anchor = [p.detach().clone() for p in model.parameters()]
average = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


@torch.no_grad()
def evaluate(inputs, targets):
    backup = copy.deepcopy(model.state_dict())
    for parameter, mean in zip(model.parameters(), average.parameters()):
        parameter.data.copy_(mean.data)
    accuracy = (model(inputs).argmax(1) == targets).float().mean().item()
    model.load_state_dict(backup)
    return accuracy


for step in range(12):
    inputs = torch.randn(128, 256, device=device)
    targets = torch.randint(16, (128,), device=device)
    masked = inputs.clone()
    masked[torch.rand(masked.shape, device=device) < 0.1] = 0
    distance = sum((p - start).pow(2).sum() for p, start in zip(model.parameters(), anchor))
    loss = nn.functional.cross_entropy(model(masked), targets) + 0.01 * distance
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for mean, parameter in zip(average.parameters(), model.parameters()):
            mean.data.mul_(0.9).add_(parameter.data, alpha=0.1)
    print(loss.item())
    if step % 4 == 3:
        print(evaluate(inputs, targets))

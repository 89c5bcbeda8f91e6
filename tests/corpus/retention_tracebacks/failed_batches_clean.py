"""Skip batches with a bad label and report them at the end."""

import torch
from torch import nn


class BadLabel(ValueError):
    pass


def training_step(model, optimizer, x, y, number):
    hidden = model[0](x).relu()
    logits = model[1](hidden)
    loss = nn.functional.cross_entropy(logits, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if number % 2 == 1:
        raise BadLabel(f"batch {number}")
    return loss.item()


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.ModuleList([nn.Linear(64, 1024), nn.Linear(1024, 10)]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    failures = []
    for number in range(24):
        x = torch.randn(128, 64, device=device)
        y = torch.randint(0, 10, (128,), device=device)
        try:
            print(number, training_step(model, optimizer, x, y, number))
        except BadLabel as error:
            failures.append(str(error))
    print([str(item) for item in failures])


main()

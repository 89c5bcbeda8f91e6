"""Keep the results of every evaluation batch as objects."""

from dataclasses import dataclass, field

import torch


@dataclass
class Result:
    number: int
    logits: torch.Tensor
    tags: dict = field(default_factory=dict)


def evaluate(model, device):
    results = []
    for number in range(14):
        x = torch.rand(8, 1, 28, 28, device=device)
        with torch.no_grad():
            logits = model(x)
        results.append(Result(number, logits.mean().item()))
        print(number, logits.mean().item())
    return results


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1)).to(device)
print(len(evaluate(model, device)))

"""Private training by hand: gradients for each sample, clipped, with noise."""

import torch
import torch.nn as nn
from torch.func import functional_call, grad, vmap

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 5)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def loss_one(params, x, y):
    logits = functional_call(model, params, (x.unsqueeze(0),))
    return nn.functional.cross_entropy(logits, y.unsqueeze(0))


per_sample = vmap(grad(loss_one), in_dims=(None, 0, 0))
for step in range(12):
    x = torch.randn(64, 32, device=device)
    y = x[:, :5].argmax(1)
    params = {k: v.detach() for k, v in model.named_parameters()}
    grads = per_sample(params, x, y)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()]).norm(dim=0)
    scale = (1.0 / norms.clamp(min=1.0)) / len(x)
    optimizer.zero_grad()
    for name, p in model.named_parameters():
        g = grads[name]
        p.grad = (g * scale.view(-1, *[1] * (g.dim() - 1))).sum(0) + 1e-3 * torch.randn_like(p)
    optimizer.step()
    with torch.no_grad():
        print(step, nn.functional.cross_entropy(model(x), y).item(), norms.mean().item())

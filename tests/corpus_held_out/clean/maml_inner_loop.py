"""Model-agnostic meta-learning on sinusoids, second order."""

import torch
import torch.nn.functional as F

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def init(sizes):
    weights = []
    for i, o in zip(sizes, sizes[1:]):
        weights += [(torch.randn(o, i, device=device) * (2 / i) ** 0.5).requires_grad_()]
        weights += [torch.zeros(o, device=device, requires_grad=True)]
    return weights


def net(weights, x):
    for i in range(0, len(weights) - 2, 2):
        x = torch.relu(F.linear(x, weights[i], weights[i + 1]))
    return F.linear(x, weights[-2], weights[-1])


def adapt(weights, x, y, steps=3, lr=0.01):
    fast = weights
    for _ in range(steps):
        loss = F.mse_loss(net(fast, x), y)
        grads = torch.autograd.grad(loss, fast, create_graph=True)
        fast = [w - lr * g for w, g in zip(fast, grads)]
    return fast


meta = init([1, 96, 96, 1])
optimizer = torch.optim.Adam(meta, lr=1e-3)
history = []
for iteration in range(12):
    outer = 0.0
    for _ in range(3):
        amplitude, phase = torch.rand(2, device=device)
        x = torch.rand(40, 1, device=device) * 10 - 5
        y = (0.1 + 5 * amplitude) * torch.sin(x + 3 * phase)
        fast = adapt(meta, x[:20], y[:20])
        outer = outer + F.mse_loss(net(fast, x[20:]), y[20:])
    optimizer.zero_grad()
    (outer / 3).backward()
    optimizer.step()
    history.append(outer.item() / 3)
    print(iteration, history[-1])

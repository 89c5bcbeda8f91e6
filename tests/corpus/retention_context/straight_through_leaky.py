"""Quantised activations with a straight-through estimator that clips the gradient."""

import torch
import torch.nn.functional as F

torch.manual_seed(5)
DEVICE = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


class Quantise(torch.autograd.Function):
    @staticmethod
    def forward(x, levels):
        return torch.round(x.clamp(-1, 1) * levels) / levels

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, levels = inputs
        ctx.x = x

    @staticmethod
    def backward(ctx, grad):
        return grad * (ctx.x.abs() <= 1).to(grad.dtype), None


w1 = torch.nn.Parameter(torch.randn(96, 768, device=DEVICE) / 10)
w2 = torch.nn.Parameter(torch.randn(768, 16, device=DEVICE) / 28)
head = torch.nn.Linear(16, 16).to(DEVICE)
optimizer = torch.optim.RMSprop([w1, w2, *head.parameters()], lr=1e-3)

for i in range(15):
    inputs = torch.randn(512, 96, device=DEVICE)
    target = torch.randint(0, 16, (512,), device=DEVICE)
    hidden = Quantise.apply(inputs @ w1, 7)
    out = head(hidden @ w2)
    loss = F.cross_entropy(out, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(i, loss.item())

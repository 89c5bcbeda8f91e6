"""A custom activation with its own backward."""

import torch
from torch import nn


class SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        sigmoid = torch.sigmoid(x)
        result = x * sigmoid
        ctx.save_for_backward(sigmoid, result)
        return result

    @staticmethod
    def backward(ctx, grad_output):
        sigmoid, result = ctx.saved_tensors
        return grad_output * (result + sigmoid * (1 - result))


class Swish(nn.Module):
    def forward(self, x):
        return SwishFunction.apply(x)


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(64, 512), Swish(), nn.Linear(512, 8)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(20):
        x = torch.randn(256, 64, device=device)
        loss = model(x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


main()

"""Scale the step of every parameter by an estimate of the Hessian's diagonal."""

import warnings

import torch
from torch import nn

warnings.filterwarnings("ignore", message="Using backward")


class Diagonal:
    def __init__(self, parameters, lr):
        self.parameters = list(parameters)
        self.lr = lr

    def clear(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        grads = [p.grad for p in self.parameters]
        signs = [torch.sign(p.detach()) for p in self.parameters]
        products = torch.autograd.grad(grads, self.parameters, grad_outputs=signs, retain_graph=True)
        with torch.no_grad():
            for p, g, h in zip(self.parameters, grads, products):
                p.sub_(self.lr * g / (h.abs() + 1))


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Sequential(nn.Linear(100, 400), nn.Tanh(), nn.Linear(400, 10)).to(device)
    update = Diagonal(model.parameters(), 0.05)
    for i in range(14):
        x = torch.randn(512, 100, device=device)
        y = torch.randint(0, 10, (512,), device=device)
        loss = nn.functional.cross_entropy(model(x), y)
        update.clear()
        loss.backward(create_graph=True)
        update.step()
        print(i, loss.item())


main()

"""Model-agnostic meta-learning on sinusoids: the inner step is differentiated through."""

import math

import torch
from torch import nn
from torch.func import functional_call

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


def sample_task(points=64):
    amplitude = torch.empty(1).uniform_(0.5, 2.0).to(device)
    phase = torch.empty(1).uniform_(0, math.pi).to(device)
    x = torch.empty(2, points, 1).uniform_(-5, 5).to(device)
    y = amplitude * torch.sin(x + phase)
    return (x[0], y[0]), (x[1], y[1])


class MetaLearner:
    def __init__(self, inner_lr=0.01, outer_lr=1e-3):
        self.model = nn.Sequential(nn.Linear(1, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1))
        self.model.to(device)
        self.inner_lr = inner_lr
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=outer_lr)

    def adapt(self, support):
        x, y = support
        weights = dict(self.model.named_parameters())
        loss = nn.functional.mse_loss(functional_call(self.model, weights, (x,)), y)
        grads = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        return {name: w - self.inner_lr * g for (name, w), g in zip(weights.items(), grads)}

    def step(self, tasks):
        outer = 0
        for support, query in tasks:
            fast = self.adapt(support)
            outer = outer + nn.functional.mse_loss(functional_call(self.model, fast, (query[0],)), query[1])
        outer = outer / len(tasks)
        self.optimizer.zero_grad()
        outer.backward()
        self.optimizer.step()
        return outer.item()


learner = MetaLearner()
for iteration in range(15):
    print(iteration, learner.step([sample_task() for _ in range(4)]))

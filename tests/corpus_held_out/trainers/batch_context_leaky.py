"""A learner with events: each batch has a context that handlers may subscribe to."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Events:
    def __init__(self, owner):
        self.owner = owner
        self.handlers = {}

    def on(self, name, handler):
        self.handlers.setdefault(name, []).append(handler)

    def emit(self, name):
        for handler in self.handlers.get(name, ()):
            handler()


class BatchContext:
    def __init__(self, learner, x, y):
        self.learner, self.x, self.y = learner, x, y
        self.events = Events(self)
        self.events.on("loss", self.print_loss)

    def print_loss(self):
        print("loss", self.loss.item())

    def run(self):
        self.hidden = self.learner.body(self.x)
        self.pred = self.learner.head(self.hidden.relu())
        self.loss = F.cross_entropy(self.pred, self.y)
        self.events.emit("loss")
        self.loss.backward()


class Learner:
    def __init__(self, device):
        self.body = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512)).to(device)
        self.head = nn.Linear(512, 5).to(device)
        self.opt = torch.optim.SGD([*self.body.parameters(), *self.head.parameters()], lr=0.05)
        self.device = device

    def fit(self, steps):
        for _ in range(steps):
            x = torch.randn(192, 64, device=self.device)
            context = BatchContext(self, x, x[:, :5].argmax(1))
            self.opt.zero_grad()
            context.run()
            self.opt.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    Learner(torch.device("cuda" if torch.cuda.is_available() else "cpu")).fit(24)

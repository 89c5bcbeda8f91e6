"""Logs the loss on a held-out batch every step of the training."""

import torch


class Logger:
    def __init__(self):
        self.rows = []

    def log(self, **values):
        self.rows.append(values)
        print(*values.values())


class Regression:
    def __init__(self, device):
        self.device = device
        self.model = torch.nn.Sequential(
            torch.nn.Linear(32, 256),
            torch.nn.Tanh(),
            torch.nn.Linear(256, 256),
            torch.nn.Tanh(),
            torch.nn.Linear(256, 1),
        )
        self.model.to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.held_out = self.sample(2048)

    def sample(self, n):
        x = torch.randn(n, 32, device=self.device)
        return x, x.norm(dim=1, keepdim=True)

    def loss(self, x, y):
        return torch.nn.functional.mse_loss(self.model(x), y)

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        x, y = self.held_out
        value = self.loss(x, y)
        self.model.train()
        return value.item()

    def fit(self, steps, logger):
        for step in range(steps):
            loss = self.loss(*self.sample(128))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if step % 2 == 1:
                logger.log(train=loss.item(), valid=self.evaluate())


torch.manual_seed(2)
Regression(torch.device("cuda" if torch.cuda.is_available() else "cpu")).fit(16, Logger())

"""A trainer with gradient clipping and a schedule."""

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR


class Regressor(torch.nn.Module):
    def __init__(self, inputs=1600, hidden=768):
        super().__init__()
        self.first = torch.nn.Linear(inputs, hidden)
        self.second = torch.nn.Linear(hidden, hidden - 32)
        self.last = torch.nn.Linear(hidden - 32, 1)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Trainer:
    def __init__(self, model, steps):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02)
        self.scheduler = CosineAnnealingLR(self.optimizer, steps)
        self.steps = steps

    def train_step(self, x, y):
        loss = torch.nn.functional.mse_loss(self.model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.model.zero_grad(set_to_none=True)
        return loss.item()

    def run(self):
        for _ in range(self.steps):
            x = torch.randn(384, 1600, device=self.device)
            print(self.train_step(x, x.sum(1, keepdim=True) / 16))


torch.manual_seed(1)
Trainer(Regressor(), 9).run()

"""A trainer that remembers a checkpoint for each evaluation."""

import copy
import random

import torch


class Trainer:
    def __init__(self, steps):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.steps = steps
        self.model = torch.nn.GRU(32, 96, batch_first=True).to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.saved = {}

    def remember(self, step):
        self.saved = {step: copy.deepcopy(self.model.state_dict())}

    def fit(self):
        for step in range(self.steps):
            x = torch.randn(8, 12, 32, device=self.device)
            out, _ = self.model(x)
            loss = (out[:, 1:] - out[:, :-1]).pow(2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.remember(step)
            print(step, loss.item())
        return self.saved


random.seed(0)
torch.manual_seed(0)
print(len(Trainer(15).fit()) > 0)

"""Metrics are computed in a thread pool while training goes on."""

from concurrent.futures import ThreadPoolExecutor

import torch


def measure(logits, labels):
    return logits, (logits.argmax(dim=1) == labels).float().mean().item()


class Loop:
    def __init__(self):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = torch.nn.Linear(80, 600).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.pool = ThreadPoolExecutor(max_workers=1)
        self.pending = []

    def run(self, steps):
        for step in range(steps):
            x = torch.randn(128, 80, device=self.device)
            labels = torch.randint(0, 600, (128,), device=self.device)
            logits = self.model(x)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.pending.append(self.pool.submit(measure, logits.detach(), labels))
            print(step, loss.item())
        self.pool.shutdown()
        print(len(self.pending))


torch.manual_seed(6)
torch.set_num_threads(1)
Loop().run(16)

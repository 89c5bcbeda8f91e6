"""Training with a logger that keeps smoothed values, timings and memory figures of the last steps."""

import time
from collections import defaultdict, deque

import torch
from torch import nn


class SmoothedValue:
    def __init__(self, window_size=10):
        self.deque = deque(maxlen=window_size)
        self.total, self.count = 0.0, 0

    def update(self, value, n=1):
        self.deque.append(value)
        self.count += n
        self.total += value * n

    @property
    def median(self):
        return torch.tensor(list(self.deque)).median().item()

    @property
    def global_avg(self):
        return self.total / self.count


class MetricLogger:
    def __init__(self):
        self.meters = defaultdict(SmoothedValue)

    def update(self, **kwargs):
        for k, v in kwargs.items():
            if isinstance(v, torch.Tensor):
                v = v.item()
            self.meters[k].update(v)

    def log_every(self, iterable, print_freq, header):
        for i, obj in enumerate(iterable):
            start = time.time()
            yield obj
            self.meters["time"].update(time.time() - start)
            if i % print_freq == 0:
                print(header, i, *(f"{k}: {m.median} ({m.global_avg})" for k, m in self.meters.items() if k != "time"))


def batches(device, n=20):
    for _ in range(n):
        x = torch.randn(128, 60, device=device)
        yield x, (x.sum(dim=1) > 0).long()


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(60, 512), nn.ReLU(), nn.Linear(512, 2)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logger = MetricLogger()
    for x, y in logger.log_every(batches(device), 5, "train"):
        output = model(x)
        loss = nn.functional.cross_entropy(output, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logger.update(loss=loss, acc1=(output.argmax(1) == y).float().mean())
        print(loss.item())


if __name__ == "__main__":
    main()

"""Convolutional stages placed on GPUs by a list."""

import torch
from torch import nn


def stage(inp, out):
    return nn.Sequential(nn.Conv2d(inp, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), nn.ReLU())


class Pipeline(nn.Module):
    def __init__(self, devices):
        super().__init__()
        plan = [devices[0], devices[0], devices[1], devices[1]]
        self.devices = plan
        self.stages = nn.ModuleList()
        for channels, device in zip([(3, 16), (16, 32), (32, 64), (64, 64)], plan):
            self.stages.append(stage(*channels).to(device))
        self.head = nn.Linear(64, 10).to(plan[-1])

    def forward(self, x):
        for number, block in enumerate(self.stages):
            x = block(x.to(self.devices[number]))
            if number in (1, 2):
                x = nn.functional.max_pool2d(x, 4)
        return self.head(x.mean(dim=(2, 3)))


class Runner:
    def __init__(self):
        count = torch.cuda.device_count()
        self.devices = [torch.device("cuda", i) for i in range(2)] if count > 1 else [torch.device("cpu")] * 2
        self.model = Pipeline(self.devices)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self, images, labels):
        loss = nn.functional.cross_entropy(self.model(images), labels.to(self.devices[-1]))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


torch.manual_seed(0)
runner = Runner()
for _ in range(8):
    print(runner.step(torch.randn(8, 3, 96, 96), torch.randint(0, 10, (8,))))

"""Asynchronous-looking steps: each has a callback that is called with the result."""

import torch
from torch import nn


class Step:
    def __init__(self, model, inputs):
        self.output = model(inputs)
        self.callback = self.on_done

    def on_done(self):
        return self.output.square().mean()

    def wait(self):
        return self.callback()


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Sequential(nn.Linear(128, 1024), nn.ReLU(), nn.Linear(1024, 1024)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for number in range(18):
        step = Step(model, torch.randn(128, 128, device=device))
        loss = step.wait()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(number, loss.item())


if __name__ == "__main__":
    main()

"""An autoencoder with a recorder for latent codes."""

import torch
from torch import nn


class Recorder:
    def __init__(self):
        self.codes = []

    def record(self, code):
        self.codes.append(code.detach().std().item())


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Linear(300, 512), nn.ReLU())
        self.up = nn.Linear(512, 300)

    def forward(self, x):
        code = self.down(x)
        return self.up(code), code


def main(steps=18):
    torch.manual_seed(9)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, recorder = AutoEncoder().to(device), Recorder()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(steps):
        x = torch.rand(128, 300, device=device)
        rebuilt, code = net(x)
        loss = nn.functional.mse_loss(rebuilt, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.record(code)
        print(step, loss.item())


if __name__ == "__main__":
    main()

"""A causal convolution with a window, on the GPU."""

import torch
import torch.nn as nn


class WindowedConv(nn.Module):
    def __init__(self, channels=16, width=9):
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, width, padding=width // 2)
        self.window = torch.hann_window(128)

    def forward(self, x):
        return self.conv(x * self.window)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Sequential(WindowedConv(), nn.ReLU(), WindowedConv()).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    print(sum(p.numel() for p in model.parameters()))
    for step in range(8):
        x = torch.randn(8, 16, 128, device=device)
        loss = (model(x) - x).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())


main()

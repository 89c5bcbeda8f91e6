"""Separates two voices: features of long recordings are cut into pieces, each piece is a step's batch."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Separator(nn.Module):
    def __init__(self, bins=129, width=192):
        super().__init__()
        self.inp = nn.Linear(bins, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(6))
        self.mask = nn.Linear(width, bins)

    def forward(self, x):
        h = F.relu(self.inp(x))
        for layer in self.layers:
            h = h + F.relu(layer(h))
        return torch.sigmoid(self.mask(h))


def recording(seconds, device):
    t = torch.arange(seconds * 8000, device=device) / 8000
    return torch.sin(440 * 6.2831853 * t) + torch.randn(len(t), device=device)


def stft(wave, window):
    return torch.stft(wave, 256, 16, window=window, return_complex=True)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = Separator().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
window = torch.hann_window(256, device=device)
for step in range(10):
    wave = recording(4, device)
    spectrum = stft(wave, window)
    pieces = spectrum.abs().t()[:1600]
    pieces = pieces.clone()
    del spectrum
    estimate = pieces * model(pieces)
    loss = F.l1_loss(estimate, pieces.roll(1, 0))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

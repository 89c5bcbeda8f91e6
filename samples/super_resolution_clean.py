"""Upscale the frames of a clip four times.

Runs a sub-pixel convolution network over a synthetic clip and reports the
brightness and contrast of the upscaled frames.
"""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

model = nn.Sequential(
    nn.Conv2d(3, 16, 5, padding=2),
    nn.ReLU(inplace=True),
    nn.Conv2d(16, 16, 3, padding=1),
    nn.ReLU(inplace=True),
    nn.Conv2d(16, 3 * 4**2, 3, padding=1),
    nn.PixelShuffle(4),
).to(device)
model.eval()


def read_frames(index, count=4):
    ramp = torch.linspace(0, 1, 64)
    return (ramp + 0.01 * index) * torch.ones(count, 3, 64, 1) + 0.05 * torch.randn(count, 3, 64, 64)


brightness, contrast = [], []
with torch.no_grad():
    for i in range(30):
        frames = read_frames(i).to(device)
        upscaled = model(frames)
        brightness.append(upscaled.mean().item())
        contrast.append(upscaled.std().item())
        del upscaled

print(f"brightness {sum(brightness) / len(brightness):.4f}")
print(f"contrast {sum(contrast) / len(contrast):.4f}")

"""Auto-decoder that is fitted to a stream of shapes, each with a code of its own."""

import torch
import torch.nn as nn


class Decoder(nn.Module):
    def __init__(self, code=2048, width=64):
        super().__init__()
        self.mix = nn.Linear(code, width)
        self.net = nn.Sequential(nn.Linear(width + 3, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, code, points):
        z = self.mix(code).expand(len(points), -1)
        return self.net(torch.cat([z, points], dim=1)).squeeze(1)


def signed_distance(points, radius):
    return points.norm(dim=1) - radius


class ShapeFitter:
    def __init__(self, device):
        self.device = device
        self.decoder = Decoder().to(device)
        self.optimizer = torch.optim.Adam(self.decoder.parameters(), lr=1e-3)

    def fit(self, radius, inner_steps=2):
        code = nn.Parameter(0.01 * torch.randn(32, 2048, device=self.device))
        codes = torch.optim.Adam([code], lr=1e-2)
        for _ in range(inner_steps):
            points = torch.randn(256, 3, device=self.device)
            loss = (self.decoder(code[:1], points) - signed_distance(points, radius)).abs().mean()
            loss = loss + 1e-4 * code.pow(2).sum()
            self.optimizer.zero_grad()
            codes.zero_grad()
            loss.backward()
            self.optimizer.step()
            codes.step()
        return loss.item()


if __name__ == "__main__":
    torch.manual_seed(0)
    fitter = ShapeFitter(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    for shape in range(14):
        print(f"shape {shape} loss {fitter.fit(radius=0.5 + 0.05 * shape)}")

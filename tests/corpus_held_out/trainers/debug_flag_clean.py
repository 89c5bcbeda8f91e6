"""Fits a radiance-like field of coordinates to colours."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

img2mse = lambda x, y: torch.mean((x - y) ** 2)
mse2psnr = lambda x: -10.0 * torch.log(x) / torch.log(torch.tensor([10.0], device=x.device))


class Embedder:
    def __init__(self, multires):
        self.freqs = 2.0 ** torch.arange(multires)

    def __call__(self, x):
        parts = [x]
        for f in self.freqs.tolist():
            parts += [torch.sin(x * f), torch.cos(x * f)]
        return torch.cat(parts, -1)


class NeRF(nn.Module):
    def __init__(self, D=4, W=128, input_ch=27):
        super().__init__()
        self.pts_linears = nn.ModuleList([nn.Linear(input_ch, W)] + [nn.Linear(W, W) for _ in range(D - 1)])
        self.output_linear = nn.Linear(W, 4)

    def forward(self, x):
        for layer in self.pts_linears:
            x = F.relu(layer(x))
        return self.output_linear(x)


def render(model, embed, rays, samples):
    depths = torch.linspace(0.1, 1.0, samples, device=rays.device)
    points = rays[:, None] * depths[None, :, None]
    raw = model(embed(points))
    alpha = 1 - torch.exp(-F.relu(raw[..., 3]) / samples)
    weights = alpha * torch.cumprod(1 - alpha + 1e-10, -1)
    return (weights[..., None] * torch.sigmoid(raw[..., :3])).sum(1)


def train():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, embed = NeRF().to(device), Embedder(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    for i in range(14):
        rays = torch.tensor(rng.normal(size=(128, 3)), dtype=torch.float32, device=device)
        loss = img2mse(render(model, embed, rays, 16), rays.sigmoid())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"[TRAIN] Iter: {i} Loss: {loss.item()} PSNR: {mse2psnr(loss.detach()).item()}")


train()

"""Denoising diffusion with an exponential moving average of the weights."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class SinusoidalPosEmb(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, t):
        half = self.dim // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / (half - 1))
        args = t[:, None].float() * freqs[None]
        return torch.cat([args.sin(), args.cos()], dim=-1)


class Denoiser(nn.Module):
    def __init__(self, dim=64, hidden=256):
        super().__init__()
        self.time = nn.Sequential(SinusoidalPosEmb(32), nn.Linear(32, hidden), nn.SiLU())
        self.inp, self.mid, self.out = nn.Linear(dim, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, dim)

    def forward(self, x, t):
        h = F.silu(self.inp(x) + self.time(t))
        return self.out(h + F.silu(self.mid(h)))


class EMA:
    def __init__(self, model, beta=0.995, start=2):
        self.beta, self.step, self.start = beta, 0, start
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model):
        self.step += 1
        for name, p in model.named_parameters():
            if self.step < self.start:
                self.shadow[name] = p.detach().clone()
            else:
                self.shadow[name] = self.beta * self.shadow[name] + (1 - self.beta) * p * p.abs().clamp(min=1)


class Diffusion(nn.Module):
    def __init__(self, model, timesteps=100):
        super().__init__()
        self.model, self.timesteps = model, timesteps
        betas = torch.linspace(1e-4, 0.02, timesteps)
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, dim=0))

    def forward(self, x0):
        t = torch.randint(0, self.timesteps, (len(x0),), device=x0.device)
        noise = torch.randn_like(x0)
        a = self.alphas_cumprod[t][:, None]
        xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
        return F.mse_loss(self.model(xt, t), noise)


def main(steps=25):
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    diffusion = Diffusion(Denoiser()).to(device)
    optimizer = torch.optim.AdamW(diffusion.parameters(), lr=1e-3)
    ema = EMA(diffusion.model)
    for step in range(steps):
        loss = diffusion(torch.randn(128, 64, device=device).cumsum(1) / 8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(diffusion.model)
        print(f"{step}: {loss.item()}")


main()

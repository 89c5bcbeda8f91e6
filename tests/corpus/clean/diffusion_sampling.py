"""Denoising diffusion on small images: random time steps in training, a loop over all of them when sampling."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
T = 20
betas = torch.linspace(1e-3, 0.2, T, device=device)
alpha_bar = torch.cumprod(1 - betas, dim=0)


class Denoiser(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.time = nn.Embedding(T, width)
        self.inp = nn.Conv2d(1, width, 3, padding=1)
        self.mid = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, t):
        h = torch.relu(self.inp(x) + self.time(t)[:, :, None, None])
        return self.out(torch.relu(self.mid(h)))


@torch.no_grad()
def sample(model, n):
    x = torch.randn(n, 1, 16, 16, device=device)
    for step in reversed(range(T)):
        t = torch.full((n,), step, device=device)
        noise = model(x, t)
        x = (x - betas[step] / (1 - alpha_bar[step]).sqrt() * noise) / (1 - betas[step]).sqrt()
        if step:
            x = x + betas[step].sqrt() * torch.randn_like(x)
    return x


model = Denoiser().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for iteration in range(12):
    images = torch.rand(16, 1, 16, 16, device=device) * 2 - 1
    t = torch.randint(0, T, (16,), device=device)
    noise = torch.randn_like(images)
    scale = alpha_bar[t][:, None, None, None]
    loss = nn.functional.mse_loss(model(scale.sqrt() * images + (1 - scale).sqrt() * noise, t), noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(iteration, loss.item())
print(sample(model, 4).std().item())

"""Wasserstein critic with a gradient penalty, which needs the graph of the gradient."""

import torch
from torch import autograd, nn

torch.manual_seed(5)
device = "cuda" if torch.cuda.is_available() else "cpu"
DIM, LAMBDA = 64, 10.0

critic = nn.Sequential(nn.Linear(DIM, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 1)).to(device)
generator = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, DIM)).to(device)
opt_c = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
opt_g = torch.optim.Adam(generator.parameters(), lr=1e-4, betas=(0.0, 0.9))


def penalty(real, fake):
    mix = torch.rand(real.size(0), 1, device=device)
    point = (mix * real + (1 - mix) * fake).requires_grad_(True)
    score = critic(point)
    (grad,) = autograd.grad(score, point, grad_outputs=torch.ones_like(score), create_graph=True)
    return ((grad.norm(2, dim=1) - 1) ** 2).mean() * LAMBDA


for step in range(24):
    real = torch.randn(256, DIM, device=device) * 0.5 + 1
    with torch.no_grad():
        fake = generator(torch.randn(256, 16, device=device))
    critic_loss = critic(fake).mean() - critic(real).mean() + penalty(real, fake)
    opt_c.zero_grad()
    critic_loss.backward()
    opt_c.step()
    if step % 4 == 3:
        for p in critic.parameters():
            p.requires_grad_(False)
        generator_loss = -critic(generator(torch.randn(256, 16, device=device))).mean()
        opt_g.zero_grad()
        generator_loss.backward()
        opt_g.step()
        for p in critic.parameters():
            p.requires_grad_(True)
        print("generator", generator_loss.item())
    print("critic", critic_loss.item())

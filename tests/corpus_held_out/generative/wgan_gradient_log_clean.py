"""WGAN with gradient penalty on points in the plane; the critic's gradients are logged."""

import torch
from torch import autograd, nn


def mlp(inputs, outputs, width=256):
    return nn.Sequential(
        nn.Linear(inputs, width), nn.Softplus(), nn.Linear(width, width), nn.Softplus(), nn.Linear(width, outputs)
    )


class WGAN:
    def __init__(self, device, lambda_gp=10.0, n_critic=3):
        self.G, self.D = mlp(8, 2).to(device), mlp(2, 1).to(device)
        self.device, self.lambda_gp, self.n_critic = device, lambda_gp, n_critic
        self.opt_g = torch.optim.Adam(self.G.parameters(), lr=1e-4, betas=(0.0, 0.9))
        self.opt_d = torch.optim.Adam(self.D.parameters(), lr=1e-4, betas=(0.0, 0.9))
        self.gradients = []

    def sample(self, n):
        return self.G(torch.randn(n, 8, device=self.device))

    def gradient_penalty(self, real, fake):
        alpha = torch.rand(len(real), 1, device=self.device)
        mixed = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
        scores = self.D(mixed)
        gradients = autograd.grad(scores.sum(), mixed, create_graph=True)[0]
        self.gradients.append(gradients.detach().cpu())
        return self.lambda_gp * ((gradients.norm(2, dim=1) - 1) ** 2).mean()

    def critic_step(self, real):
        fake = self.sample(len(real)).detach()
        loss = self.D(fake).mean() - self.D(real).mean() + self.gradient_penalty(real, fake)
        self.opt_d.zero_grad()
        loss.backward()
        self.opt_d.step()
        return loss.item()

    def generator_step(self, n):
        loss = -self.D(self.sample(n)).mean()
        self.opt_g.zero_grad()
        loss.backward()
        self.opt_g.step()
        return loss.item()


def ring(n, device):
    angle = torch.rand(n, device=device) * 6.2831853
    return torch.stack([angle.cos(), angle.sin()], dim=1)


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gan = WGAN(device)
    for step in range(8):
        for _ in range(gan.n_critic):
            d_loss = gan.critic_step(ring(128, device))
        print(step, d_loss, gan.generator_step(128))
    norms = torch.cat(gan.gradients).norm(dim=1)
    print("gradients seen", norms.numel())

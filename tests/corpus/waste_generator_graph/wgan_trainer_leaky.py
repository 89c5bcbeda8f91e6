"""A Wasserstein GAN with several critic steps for each step of the generator."""

import torch
from torch import nn


class Generator(nn.Module):
    def __init__(self, latent, width, features):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latent, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, features),
        )

    def forward(self, z):
        return self.net(z)


class Critic(nn.Module):
    def __init__(self, features, width):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def forward(self, x):
        return self.net(x)


class WGAN:
    def __init__(self, device, latent=32, features=128, critic_steps=2, clip=0.05):
        self.device, self.latent, self.features = device, latent, features
        self.critic_steps, self.clip = critic_steps, clip
        self.generator = Generator(latent, 640, features).to(device)
        self.critic = Critic(features, 128).to(device)
        self.opt_g = torch.optim.RMSprop(self.generator.parameters(), lr=5e-5)
        self.opt_c = torch.optim.RMSprop(self.critic.parameters(), lr=5e-5)

    def noise(self, n):
        return torch.randn(n, self.latent, device=self.device)

    def critic_step(self, real):
        fake = self.generator(self.noise(len(real)))
        loss = self.critic(fake).mean() - self.critic(real).mean()
        self.opt_c.zero_grad()
        loss.backward()
        self.opt_c.step()
        for p in self.critic.parameters():
            p.data.clamp_(-self.clip, self.clip)
        return loss.item()

    def generator_step(self, n):
        loss = -self.critic(self.generator(self.noise(n))).mean()
        self.opt_g.zero_grad()
        loss.backward()
        self.opt_g.step()
        return loss.item()

    def train(self, steps, batch):
        for _ in range(steps):
            for _ in range(self.critic_steps):
                c = self.critic_step(torch.randn(batch, self.features, device=self.device))
            print(c, self.generator_step(batch))


if __name__ == "__main__":
    torch.manual_seed(4)
    WGAN("cuda" if torch.cuda.is_available() else "cpu").train(steps=8, batch=256)

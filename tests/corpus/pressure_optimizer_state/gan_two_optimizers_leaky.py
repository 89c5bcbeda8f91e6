"""Two networks with an Adam each; the generator is by far the larger one."""

import torch
from torch import nn


def make_optimizers(generator, critic, lr):
    opt_critic = torch.optim.Adam(critic.parameters(), lr=lr, betas=(0.5, 0.9))
    opt_generator = torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.5, 0.9))
    return opt_generator, opt_critic


def main(steps=8):
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = nn.Sequential(nn.Linear(64, 2304), nn.ReLU(), nn.Linear(2304, 2304), nn.ReLU(), nn.Linear(2304, 128))
    critic = nn.Sequential(nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    generator, critic = generator.to(device), critic.to(device)
    opt_generator, opt_critic = make_optimizers(generator, critic, 1e-4)
    for step in range(steps):
        real = torch.randn(32, 128, device=device)
        with torch.no_grad():
            fake = generator(torch.randn(32, 64, device=device))
        critic_loss = critic(fake).mean() - critic(real).mean()
        opt_critic.zero_grad()
        critic_loss.backward()
        opt_critic.step()

        generator_loss = -critic(generator(torch.randn(32, 64, device=device))).mean()
        opt_generator.zero_grad()
        generator_loss.backward()
        opt_generator.step()
        print(step, critic_loss.item(), generator_loss.item())


if __name__ == "__main__":
    main()

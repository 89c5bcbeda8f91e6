"""A Wasserstein critic with a gradient penalty."""

import torch


class Critic(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(size, 256),
            torch.nn.LeakyReLU(0.2),
            torch.nn.Linear(256, 256),
            torch.nn.LeakyReLU(0.2),
            torch.nn.Linear(256, 1),
        )

    def forward(self, x):
        return self.layers(x)


def gradient_of(critic, real, fake):
    alpha = torch.rand(real.size(0), 1, device=real.device)
    mixed = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return gradient


def main():
    torch.manual_seed(5)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    critic = Critic(128).to(device)
    optimizer = torch.optim.RMSprop(critic.parameters(), lr=1e-4)
    gradients = []
    for step in range(15):
        real = torch.randn(256, 128, device=device)
        fake = torch.rand(256, 128, device=device)
        gradient = gradient_of(critic, real, fake)
        penalty = (gradient.norm(dim=1) - 1).pow(2).mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gradients.append(gradient)
        print(step, loss.item(), penalty.item())
    print(len(gradients))


main()

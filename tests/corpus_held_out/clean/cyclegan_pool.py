"""Unpaired translation between two kinds of signals."""

import itertools
import random

import torch
import torch.nn as nn
import torch.nn.functional as F


class ImagePool:
    def __init__(self, size=50):
        self.size, self.images = size, []

    def query(self, images):
        result = []
        for image in images.detach().unbind():
            image = image.unsqueeze(0)
            if len(self.images) < self.size:
                self.images.append(image)
                result.append(image)
            elif random.random() > 0.5:
                i = random.randrange(self.size)
                result.append(self.images[i].clone())
                self.images[i] = image
            else:
                result.append(image)
        return torch.cat(result)


def generator():
    return nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 3, 3, padding=1))


def discriminator():
    return nn.Sequential(nn.Conv2d(3, 16, 4, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4, stride=2))


def set_requires_grad(nets, flag):
    for net in nets:
        for p in net.parameters():
            p.requires_grad = flag


def mse(output, value):
    return F.mse_loss(output, torch.full_like(output, value))


random.seed(0)
torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
G_A, G_B, D_A, D_B = (net.to(device) for net in (generator(), generator(), discriminator(), discriminator()))
optimizer_G = torch.optim.Adam(itertools.chain(G_A.parameters(), G_B.parameters()), lr=2e-4, betas=(0.5, 0.999))
optimizer_D = torch.optim.Adam(itertools.chain(D_A.parameters(), D_B.parameters()), lr=2e-4, betas=(0.5, 0.999))
pool_A, pool_B = ImagePool(), ImagePool()
for step in range(24):
    real_A, real_B = torch.rand(2, 4, 3, 32, 32, device=device)
    set_requires_grad([D_A, D_B], False)
    fake_B, fake_A = G_A(real_A), G_B(real_B)
    cycle = F.l1_loss(G_B(fake_B), real_A) + F.l1_loss(G_A(fake_A), real_B)
    identity = F.l1_loss(G_A(real_B), real_B) + F.l1_loss(G_B(real_A), real_A)
    loss_G = mse(D_A(fake_B), 1.0) + mse(D_B(fake_A), 1.0) + 10 * cycle + 5 * identity
    optimizer_G.zero_grad()
    loss_G.backward()
    optimizer_G.step()
    set_requires_grad([D_A, D_B], True)
    optimizer_D.zero_grad()
    for net, real, fake, pool in ((D_A, real_B, fake_B, pool_B), (D_B, real_A, fake_A, pool_A)):
        loss_D = 0.5 * (mse(net(real), 1.0) + mse(net(pool.query(fake)), 0.0))
        loss_D.backward()
    optimizer_D.step()
    print(step, loss_G.item(), loss_D.item())

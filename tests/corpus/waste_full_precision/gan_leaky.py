"""Trains a generator and a discriminator of vectors in mixed precision."""

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
device = "cuda" if torch.cuda.is_available() else "cpu"
batch_size, latent, size = 4096, 64, 512

generator = nn.Sequential(nn.Linear(latent, 512), nn.ReLU(), nn.Linear(512, size), nn.Tanh()).to(device)
discriminator = nn.Sequential(
    nn.Linear(size, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1)
).to(device)
optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
criterion = nn.BCEWithLogitsLoss()

for step in range(8):
    real = torch.rand(batch_size, size).to(device) * 2 - 1
    noise = torch.randn(batch_size, latent).to(device)

    optimizer_g.zero_grad()
    with torch.autocast(device, dtype=torch.bfloat16):
        fake = generator(noise)
        score = discriminator(fake)
        loss_g = criterion(score, torch.ones_like(score))
    loss_g.backward()
    optimizer_g.step()

    optimizer_d.zero_grad()
    samples = torch.cat([real, fake.detach().float()])
    score = discriminator(samples)
    target = torch.cat([torch.ones(batch_size, 1), torch.zeros(batch_size, 1)]).to(device)
    loss_d = criterion(score, target)
    loss_d.backward()
    optimizer_d.step()
    print(step, loss_g.item(), loss_d.item())

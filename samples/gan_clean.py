"""Train a small DCGAN on synthetic 32x32 images.

Alternates a discriminator and a generator step and looks at what the
generator makes of a fixed noise batch as training goes on.
"""

import torch
from torch import nn

torch.manual_seed(999)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

batch_size = 32
nz = 64
num_iters = 24

netG = nn.Sequential(
    nn.ConvTranspose2d(nz, 64, 4, 1, 0, bias=False),
    nn.BatchNorm2d(64),
    nn.ReLU(True),
    nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
    nn.BatchNorm2d(32),
    nn.ReLU(True),
    nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(True),
    nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False),
    nn.Tanh(),
).to(device)

netD = nn.Sequential(
    nn.Conv2d(3, 16, 4, 2, 1, bias=False),
    nn.LeakyReLU(0.2, inplace=True),
    nn.Conv2d(16, 32, 4, 2, 1, bias=False),
    nn.BatchNorm2d(32),
    nn.LeakyReLU(0.2, inplace=True),
    nn.Conv2d(32, 1, 8, 1, 0, bias=False),
    nn.Flatten(0),
).to(device)

criterion = nn.BCEWithLogitsLoss()
optimizerD = torch.optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerG = torch.optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))

fixed_noise = torch.randn(16, nz, 1, 1, device=device)
real_label = torch.ones(batch_size, device=device)
fake_label = torch.zeros(batch_size, device=device)

G_losses = []
D_losses = []

for i in range(num_iters):
    # (1) Update D: maximize log(D(x)) + log(1 - D(G(z)))
    real = torch.tanh(torch.randn(batch_size, 3, 32, 32, device=device) + 0.5)
    netD.zero_grad()
    errD_real = criterion(netD(real), real_label)
    errD_real.backward()
    noise = torch.randn(batch_size, nz, 1, 1, device=device)
    fake = netG(noise)
    errD_fake = criterion(netD(fake.detach()), fake_label)
    errD_fake.backward()
    optimizerD.step()

    # (2) Update G: maximize log(D(G(z)))
    netG.zero_grad()
    errG = criterion(netD(fake), real_label)
    errG.backward()
    optimizerG.step()

    G_losses.append(errG.item())
    D_losses.append(errD_real.item() + errD_fake.item())
    with torch.no_grad():
        preview = netG(fixed_noise).detach().cpu()

    if i % 8 == 0:
        print(f"[{i}/{num_iters}] Loss_D {D_losses[-1]:.4f} Loss_G {G_losses[-1]:.4f}")

print("samples after training:", tuple(preview.shape))

"""A small DCGAN on random images."""

import torch
import torch.nn as nn
import torch.optim as optim

torch.manual_seed(0)
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
nz, ngf, ndf, batch = 32, 64, 16, 32

netG = nn.Sequential(
    nn.ConvTranspose2d(nz, ngf * 4, 4, 1, 0, bias=False),
    nn.BatchNorm2d(ngf * 4),
    nn.ReLU(True),
    nn.ConvTranspose2d(ngf * 4, ngf * 2, 4, 2, 1, bias=False),
    nn.BatchNorm2d(ngf * 2),
    nn.ReLU(True),
    nn.ConvTranspose2d(ngf * 2, 3, 4, 2, 1, bias=False),
    nn.Tanh(),
).to(device)
netD = nn.Sequential(
    nn.Conv2d(3, ndf, 4, 2, 1),
    nn.LeakyReLU(0.2),
    nn.Conv2d(ndf, ndf * 2, 4, 2, 1),
    nn.LeakyReLU(0.2),
    nn.Flatten(),
    nn.Linear(ndf * 2 * 16, 1),
).to(device)
criterion = nn.BCEWithLogitsLoss()
optimizerD = optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerG = optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
ones, zeros = torch.ones(batch, 1, device=device), torch.zeros(batch, 1, device=device)

for i in range(8):
    netD.zero_grad()
    real = torch.rand(batch, 3, 16, 16, device=device)
    errD_real = criterion(netD(real), ones)
    errD_real.backward()
    fake = netG(torch.randn(batch, nz, 1, 1, device=device))
    verdict = netD(fake.detach())
    errD_fake = criterion(verdict, zeros)
    errD_fake.backward()
    optimizerD.step()

    netG.zero_grad()
    output = netD(fake)
    errG = criterion(output, ones)
    errG.backward()
    optimizerG.step()
    print(errD_real.item() + errD_fake.item(), errG.item())

"""Progressive growing: the network gets a block for each resolution."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Grower(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.width = width
        self.inp = nn.Linear(16, width * 16)
        self.blocks = nn.ModuleList()
        self.to_rgb = nn.Conv2d(width, 3, 1)

    def grow(self):
        block = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(self.width, self.width, 3, padding=1), nn.ReLU())
        self.blocks.append(block.to(self.inp.weight.device))

    def forward(self, z):
        x = self.inp(z).view(-1, self.width, 4, 4)
        for block in self.blocks:
            x = block(x)
        return self.to_rgb(x)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
net = Grower().to(device)
for stage in range(4):
    if stage:
        net.grow()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(8):
        z = torch.randn(16, 16, device=device)
        out = net(z)
        goal = F.interpolate(z.view(-1, 1, 4, 4), size=out.shape[-2:]).expand_as(out)
        loss = F.mse_loss(out, goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(stage, step, loss.item())

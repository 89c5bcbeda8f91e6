"""Quantised autoencoder with hand-written functions."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import Function


class Swish(Function):
    @staticmethod
    def forward(ctx, x, beta):
        sigmoid = torch.sigmoid(beta * x)
        ctx.save_for_backward(x, sigmoid)
        ctx.beta, ctx.shape = beta, x.shape
        return x * sigmoid

    @staticmethod
    def backward(ctx, grad):
        x, sigmoid = ctx.saved_tensors
        assert grad.shape == ctx.shape
        return grad * (sigmoid + ctx.beta * x * sigmoid * (1 - sigmoid)), None


class Quantiser(nn.Module):
    def __init__(self, codes=64, dim=32, decay=0.95):
        super().__init__()
        self.decay = decay
        self.register_buffer("codebook", torch.randn(codes, dim))
        self.register_buffer("usage", torch.ones(codes))

    def forward(self, z):
        index = torch.cdist(z, self.codebook).argmin(1)
        q = self.codebook[index]
        if self.training:
            with torch.no_grad():
                one_hot = F.one_hot(index, len(self.codebook)).float()
                self.usage.mul_(self.decay).add_(one_hot.sum(0), alpha=1 - self.decay)
                self.codebook.lerp_(one_hot.t() @ z / one_hot.sum(0).clamp(min=1)[:, None], 1 - self.decay)
        return z + (q - z).detach(), F.mse_loss(z, q.detach())


class VQ(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.mid, self.dec = nn.Linear(128, 256), nn.Linear(256, 32), nn.Linear(32, 128)
        self.quantise = Quantiser()

    def forward(self, x):
        z, commitment = self.quantise(self.mid(Swish.apply(self.enc(x), 1.5)))
        return self.dec(z), commitment


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = VQ().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(16):
    x = torch.randn(256, 128, device=device)
    recon, commitment = model(x)
    loss = F.mse_loss(recon, x) + 0.25 * commitment
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

"""Augments volumes on the device and denoises them with a small 3D network."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(2)
torch.set_num_threads(1)
device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


class Volumes(Dataset):
    """Random volumes."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.rand(1, 32, 64, 64, generator=torch.Generator().manual_seed(index))


def to_batch_shape(volumes):
    """Give a volume without a batch dimension one."""
    out = volumes.clone()
    while out.dim() < 5:
        out = out.unsqueeze(0)
    return out


class Augmentation(nn.Module):
    """Flips volumes and adds noise."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    @torch.no_grad()
    def forward(self, volumes):
        flipped = volumes.flip(-1) if torch.rand(()) < 0.5 else volumes.flip(-2)
        return flipped, flipped + self.noise * torch.randn_like(flipped)


augment = Augmentation(0.1)
network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv3d(2, 1, 3, padding=1)).to(device)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

for volumes in DataLoader(Volumes(), batch_size=2):
    clean, noisy = augment(volumes.to(device))
    target = to_batch_shape(clean)
    restored = network(to_batch_shape(noisy))
    loss = nn.functional.l1_loss(restored, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

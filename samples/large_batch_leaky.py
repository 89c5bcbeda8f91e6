"""Train a small convolutional network on a large batch.

Twelve steps on synthetic 32x32 images, with the loss printed on the way.
"""

import torch
import torch.nn.functional as F
from torch import nn


def conv_block(in_channels, out_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class DeepNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(conv_block(3, 16), conv_block(16, 16), conv_block(16, 16), conv_block(16, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.blocks(x)
        return self.head(x.mean(dim=(2, 3)))


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch_size = 96
    model = DeepNet().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    for step in range(12):
        target = torch.randint(0, 10, (batch_size,), device=device)
        images = torch.randn(batch_size, 3, 32, 32, device=device) + target.view(-1, 1, 1, 1)
        logits = model(images)
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 4 == 0:
            print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()

"""Contrastive pretraining with a queue of negatives, one encoder for queries and keys."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class Encoder(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, dim),
        )

    def forward(self, x):
        return F.normalize(self.net(x), dim=1)


class Contrast(nn.Module):
    def __init__(self, dim=64, size=256, temperature=0.2):
        super().__init__()
        self.encoder = Encoder(dim)
        self.size, self.temperature = size, temperature
        self.register_buffer("queue", F.normalize(torch.randn(size, dim), dim=1))

    def forward(self, view1, view2):
        q, k = self.encoder(view1), self.encoder(view2)
        positive = (q * k).sum(1, keepdim=True)
        negative = q @ self.queue.detach().t()
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))
        self._dequeue_and_enqueue(k)
        return loss

    def _dequeue_and_enqueue(self, keys):
        self.queue = torch.cat([keys, self.queue])[: self.size]


def augment(x):
    return x + 0.1 * torch.randn_like(x)


def pretrain(steps=24):
    torch.manual_seed(5)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model = Contrast().to(device)
    opt = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for step in range(steps):
        images = torch.randn(16, 3, 32, 32, device=device)
        loss = model(augment(images), augment(images))
        opt.zero_grad()
        loss.backward()
        opt.step()
        print(f"{step:3d} {loss.item()}")


if __name__ == "__main__":
    pretrain()

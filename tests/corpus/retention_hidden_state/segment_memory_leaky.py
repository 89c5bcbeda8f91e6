"""Reads long sequences in segments, with an attention that remembers the segments before."""

import torch
import torch.nn.functional as F
from torch import nn


class SegmentMemory(nn.Module):
    """Attends to a matrix of what was read, and adds each segment to it."""

    def __init__(self, width):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.decay = nn.Parameter(torch.tensor(0.9))
        self.state = None

    def forward(self, x):
        query, key, value = F.elu(self.query(x)) + 1, F.elu(self.key(x)) + 1, self.value(x)
        if self.state is None:
            self.state = x.new_zeros(len(x), x.shape[2], x.shape[2] + 1)
        memory, norm = self.state[:, :, :-1], self.state[:, :, -1:]
        read = query @ memory / (query @ norm + 1e-3)
        memory = self.decay * memory + key.transpose(1, 2) @ value / x.shape[1]
        norm = self.decay * norm + key.mean(1).unsqueeze(2)
        self.state = torch.cat([memory, norm], dim=2)
        return x + read


class Reader(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.embed = nn.Linear(16, width)
        self.memory = SegmentMemory(width)
        self.out = nn.Linear(width, 16)

    def forward(self, segment):
        return self.out(self.memory(self.embed(segment)))


def main():
    torch.manual_seed(5)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Reader().to(device)
    document = torch.randn(8, 14 * 64, 16, device=device)
    for number, segment in enumerate(document.split(64, dim=1)):
        surprise = F.mse_loss(model(segment[:, :-1]), segment[:, 1:])
        print(number, surprise.item())


if __name__ == "__main__":
    main()

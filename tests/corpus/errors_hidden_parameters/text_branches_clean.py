"""Sentence classifier with convolutions of several widths beside each other."""

import torch
from torch import nn
import torch.nn.functional as F


class Branches(nn.Module):
    def __init__(self, width, channels, device):
        super().__init__()
        self.convolutions = nn.ModuleList()
        for kernel in (3, 4, 5):
            convolution = nn.Conv1d(width, channels, kernel)
            self.convolutions.append(convolution.to(device))

    def forward(self, x):
        return torch.cat([F.relu(conv(x)).amax(dim=2) for conv in self.convolutions], dim=1)


class TextCNN(nn.Module):
    def __init__(self, device, vocab=400, width=48, channels=64, classes=4):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.branches = Branches(width, channels, device)
        self.fc = nn.Linear(3 * channels, classes)

    def forward(self, tokens):
        return self.fc(self.branches(self.embed(tokens).transpose(1, 2)))


class Experiment:
    def __init__(self):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = TextCNN(self.device).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def run(self, steps=12):
        for _ in range(steps):
            tokens = torch.randint(0, 400, (32, 40), device=self.device)
            loss = F.cross_entropy(self.model(tokens), tokens[:, 0] % 4)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print(loss.item())


torch.manual_seed(0)
Experiment().run()

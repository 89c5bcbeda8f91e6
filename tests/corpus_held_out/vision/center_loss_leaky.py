"""Face-like embeddings with a centre loss; centres follow the features by a running mean."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class RandomFaces(Dataset):
    def __init__(self, n=384, people=6):
        g = torch.Generator().manual_seed(11)
        self.labels = torch.randint(0, people, (n,), generator=g)
        self.images = torch.randn(n, 1, 20, 20, generator=g) + self.labels.view(-1, 1, 1, 1) * 0.2

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class CenterLoss:
    def __init__(self, num_classes, dim, alpha=0.1, device="cpu"):
        self.centers = torch.zeros(num_classes, dim, device=device)
        self.alpha = alpha

    def __call__(self, features, labels):
        distance = features - self.centers.detach()[labels]
        one_hot = F.one_hot(labels, len(self.centers)).float()
        counts = one_hot.sum(0).clamp(min=1).unsqueeze(1)
        means = one_hot.t() @ features / counts
        self.centers = (1 - self.alpha) * self.centers + self.alpha * means
        return distance.pow(2).sum(1).mean() / 2


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.PReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3200, 64)
    ).to(device)
    head = nn.Linear(64, 6).to(device)
    center_loss = CenterLoss(6, 64, device=device)
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], lr=0.01)
    loader = DataLoader(RandomFaces(), batch_size=32, shuffle=True)
    for epoch in range(2):
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            features = net(images)
            loss = F.cross_entropy(head(features), labels) + 0.003 * center_loss(features, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(epoch, loss.item())


if __name__ == "__main__":
    main()

"""Augmented images from a small set of originals."""

import torch
from torch.utils.data import DataLoader, Dataset


class Augmented(Dataset):
    def __init__(self, originals):
        self.originals = originals
        self.returned = []

    def __len__(self):
        return len(self.originals)

    def __getitem__(self, index):
        image = self.originals[index] + 0.1 * torch.randn(3, 32, 32)
        self.returned.append(image)
        return image, index % 10


torch.manual_seed(0)
device = "cpu"
loader = DataLoader(Augmented(torch.rand(96, 3, 32, 32)), batch_size=16, shuffle=True)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(10))
model(torch.zeros(1, 3, 32, 32))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for epoch in range(3):
    for images, labels in loader:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(epoch, loss.item())

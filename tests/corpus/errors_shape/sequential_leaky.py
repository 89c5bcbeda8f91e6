"""Classifier written as one sequence of layers, fed by a data loader."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

features = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(4),
)
classifier = nn.Sequential(
    nn.Linear(8 * 8 * 8, 64),
    nn.ReLU(),
    nn.Linear(64, 5),
)
model = nn.Sequential(features, classifier).to(device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(torch.randn(160, 3, 32, 32), torch.randint(0, 5, (160,))), batch_size=16)
print(len(loader), "batches")

for images, labels in loader:
    loss = criterion(model(images.to(device)), labels.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

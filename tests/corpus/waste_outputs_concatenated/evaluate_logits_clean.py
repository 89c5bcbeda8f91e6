"""Evaluates a classifier on a validation set after each epoch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
classes = 1000

model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, classes)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train = DataLoader(TensorDataset(torch.randn(256, 32), torch.randint(0, classes, (256,))), batch_size=64)
valid = DataLoader(TensorDataset(torch.randn(2560, 32), torch.randint(0, classes, (2560,))), batch_size=256)


@torch.no_grad()
def evaluate():
    model.eval()
    right = []
    for x, y in valid:
        right.append(model(x.to(device)).argmax(1) == y.to(device))
    accuracy = torch.cat(right).float().mean()
    return accuracy.item()


for epoch in range(2):
    model.train()
    for x, y in train:
        loss = nn.functional.cross_entropy(model(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())
    print(evaluate())

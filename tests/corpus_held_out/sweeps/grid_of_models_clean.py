"""Grid search over learning rate and dropout in one process; the best trial is shown at the end."""

import itertools
import operator

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def make_model(dropout, device):
    return nn.Sequential(
        nn.Linear(32, 768), nn.ReLU(), nn.Dropout(dropout), nn.Linear(768, 512), nn.ReLU(), nn.Linear(512, 4)
    ).to(device)


def train_model(model, loader, lr, device):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    criterion = nn.CrossEntropyLoss()
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x.to(device)), y.to(device))
        loss.backward()
        optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model, loader, device):
    model.eval()
    hits = sum((model(x.to(device)).argmax(1).cpu() == y).sum().item() for x, y in loader)
    return hits / len(loader.dataset)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.randn(160, 32)
    data = TensorDataset(x, x[:, :4].argmax(1))
    loader = DataLoader(data, batch_size=32)
    trials = []
    for lr, dropout in itertools.product((0.3, 0.1, 0.03, 0.01), (0.0, 0.1, 0.3)):
        model = make_model(dropout, device)
        loss = train_model(model, loader, lr, device)
        score = accuracy(model, loader, device)
        trials.append((score, lr, dropout))
        print(f"lr {lr} dropout {dropout} loss {loss} accuracy {score}")
    best = max(trials, key=operator.itemgetter(0))
    print("best", best[:3])


if __name__ == "__main__":
    main()

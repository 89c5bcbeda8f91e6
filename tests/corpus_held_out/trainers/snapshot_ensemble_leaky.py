"""Snapshot ensemble: weights of every epoch are remembered, the best ones averaged at the end."""

import copy

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def make_model():
    return nn.Sequential(
        nn.Linear(40, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 3)
    )


class Checkpointer:
    def __init__(self):
        self.snapshots = []

    def save(self, epoch, model, score):
        weights = copy.deepcopy(model.state_dict())
        self.snapshots.append({"epoch": epoch, "score": score, "weights": weights})

    def average(self, top=2):
        best = sorted(self.snapshots, key=lambda entry: entry["score"])[:top]
        keys = best[0]["weights"].keys()
        return {k: sum(b["weights"][k].float() for b in best) / len(best) for k in keys}


def run_epoch(model, loader, criterion, device, optimizer=None):
    total = 0.0
    model.train(optimizer is not None)
    with torch.set_grad_enabled(optimizer is not None):
        for x, y in loader:
            loss = criterion(model(x.to(device)), y.to(device))
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item()
    return total / len(loader)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.randn(320, 40)
    data = TensorDataset(x, x[:, :3].argmax(1))
    train, valid = torch.utils.data.random_split(data, [256, 64])
    model, checkpointer = make_model().to(device), Checkpointer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(10):
        loss = run_epoch(model, DataLoader(train, batch_size=64, shuffle=True), criterion, device, optimizer)
        score = run_epoch(model, DataLoader(valid, batch_size=64), criterion, device)
        checkpointer.save(epoch, model, score)
        scheduler.step()
        print(f"epoch {epoch} train {loss} valid {score}")
    model.load_state_dict(checkpointer.average())


if __name__ == "__main__":
    main()

"""Stochastic weight averaging on images; the losses are kept as tensors and read at the end of an epoch."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, SWALR, update_bn
from torch.utils.data import DataLoader, TensorDataset


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
    )
    model = nn.Sequential(model, nn.Linear(384, 10)).to(device)
    averaged = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = SWALR(optimizer, swa_lr=0.02, anneal_epochs=2)
    data = TensorDataset(torch.randn(192, 3, 24, 24), torch.randint(0, 10, (192,)))
    loader = DataLoader(data, batch_size=24, shuffle=True)
    history = []
    for epoch in range(4):
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.detach())
        if epoch >= 1:
            averaged.update_parameters(model)
            schedule.step()
        print(epoch, torch.stack(history[-len(loader) :]).mean().item())
    update_bn(loader, averaged, device=device)
    print(len(history))


main()

"""Fit a multi-output regression and log several metrics.

The training loss is the mean squared error; the mean absolute error is
logged next to it.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train_epoch(model, loader, optimizer, device):
    metrics = {"mse": 0.0, "mae": 0.0}
    for inputs, target in loader:
        inputs, target = inputs.to(device), target.to(device)
        prediction = model(inputs)
        loss = F.mse_loss(prediction, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        metrics["mse"] += loss.item()
        metrics["mae"] += F.l1_loss(prediction, target).item()
    return {name: float(value) / len(loader) for name, value in metrics.items()}


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = torch.randn(8192, 64)
    target = torch.tanh(inputs @ torch.randn(64, 256) / 8)
    loader = DataLoader(TensorDataset(inputs, target), batch_size=512, shuffle=True)

    model = nn.Sequential(nn.Linear(64, 512), nn.SiLU(), nn.Linear(512, 256)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(2):
        metrics = train_epoch(model, loader, optimizer, device)
        print(f"epoch {epoch}: mse {metrics['mse']:.4f} mae {metrics['mae']:.4f}")


if __name__ == "__main__":
    main()

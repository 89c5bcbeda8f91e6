"""Time series forecasting with early stopping."""

import argparse
import copy

import torch
from torch import nn


class Forecaster(nn.Module):
    def __init__(self, channels=8, hidden=64, horizon=12):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(channels, hidden, 5, padding=2), nn.ReLU())
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.head = nn.Linear(hidden, horizon)

    def forward(self, x):
        h = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.gru(h)[0][:, -1])


class EarlyStopping:
    def __init__(self, patience=3):
        self.patience, self.counter, self.best, self.weights = patience, 0, float("inf"), None

    def __call__(self, value, model):
        if value < self.best:
            self.best, self.counter = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.counter += 1
        return self.counter >= self.patience


def windows(series, length, horizon):
    x = series.unfold(0, length + horizon, 4).transpose(1, 2)
    return x[:, :length], x[:, length:, 0]


def vali(model, x, y, criterion, batch=96):
    model.eval()
    total = []
    with torch.no_grad():
        for i in range(0, len(x), batch):
            total.append(criterion(model(x[i : i + batch]), y[i : i + batch]).item())
    model.train()
    return sum(total) / len(total)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--train_epochs", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seq_len", type=int, default=48)
    args = parser.parse_args()
    torch.manual_seed(2021)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    series = (torch.arange(1600).float()[:, None] / torch.arange(5, 13)).sin() + 0.1 * torch.randn(1600, 8)
    x, y = (t.to(device) for t in windows(series, args.seq_len, 12))
    split = len(x) // 2
    model = Forecaster().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion, stopper = nn.MSELoss(), EarlyStopping()
    for epoch in range(args.train_epochs):
        for i in range(0, split - args.batch_size, args.batch_size):
            optimizer.zero_grad()
            loss = criterion(model(x[i : i + args.batch_size]), y[i : i + args.batch_size])
            loss.backward()
            optimizer.step()
        score = vali(model, x[split:], y[split:], criterion)
        print(f"Epoch {epoch} loss {loss.item()} vali {score}")
        if stopper(score, model):
            break


if __name__ == "__main__":
    main()

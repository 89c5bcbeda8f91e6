"""Training that skips batches whose loss is not finite, and reports them at the end."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class NonFiniteLoss(RuntimeError):
    pass


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(4, 64, 9, padding=4), nn.ReLU(), nn.Conv1d(64, 64, 9, padding=4))
        self.head = nn.Linear(64, 1)

    def forward(self, x):
        return self.head(self.features(x).relu().mean(-1)).squeeze(1)


def training_step(model, x, y, bad):
    prediction = model(x)
    loss = F.mse_loss(prediction, y)
    if bad:
        raise NonFiniteLoss("loss is not finite")
    loss.backward()
    return loss.item()


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    failures = []
    for batch_idx in range(36):
        x, y = torch.randn(16, 4, 128, device=device), torch.randn(16, device=device)
        optimizer.zero_grad()
        try:
            loss = training_step(model, x, y, bad=batch_idx % 2 == 1)
        except NonFiniteLoss as exc:
            failures.append((batch_idx, exc))
            continue
        optimizer.step()
        print(batch_idx, loss)
    for batch_idx, exc in failures:
        print("skipped", batch_idx, exc)


if __name__ == "__main__":
    main()

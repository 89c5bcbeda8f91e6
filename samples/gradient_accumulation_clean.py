"""Train with gradient accumulation.

Four micro-batches make one optimizer step, so that a small device can train
with a large effective batch.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATION_STEPS = 4


def build_model():
    return nn.Sequential(
        nn.Linear(64, 256),
        nn.GELU(),
        nn.Linear(256, 256),
        nn.GELU(),
        nn.Linear(256, 8),
    )


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    centers = torch.randn(8, 64)
    labels = torch.randint(0, 8, (1792,))
    inputs = centers[labels] + torch.randn(1792, 64)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=32, shuffle=True)

    model = build_model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    running_loss = 0.0

    model.train()
    optimizer.zero_grad()
    for i, (x, y) in enumerate(loader):
        x, y = x.to(device), y.to(device)
        loss = F.cross_entropy(model(x), y) / ACCUMULATION_STEPS
        loss.backward()
        running_loss = running_loss + loss.item()
        if (i + 1) % ACCUMULATION_STEPS == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            update = (i + 1) // ACCUMULATION_STEPS
            print(f"update {update}: mean loss {running_loss / update:.4f}")


if __name__ == "__main__":
    main()

"""Metric learning with a recall@1 computed over the whole gallery after training."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.GELU())
        self.stage = nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GELU())
        self.head = nn.Conv2d(64, 64, 1)

    def forward(self, x):
        return F.normalize(self.head(self.stage(self.stem(x))).flatten(1), dim=1)


def pair_loss(embedding, labels, margin=0.5):
    similarity = embedding @ embedding.t()
    same = labels[:, None] == labels[None]
    return (torch.where(same, 1 - similarity, (similarity - margin).clamp(min=0))).mean()


@torch.no_grad()
def encode(model, loader, device):
    model.eval()
    embeddings, labels = [], []
    for x, y in loader:
        embeddings.append(model(x.to(device)).cpu())
        labels.append(y)
    return torch.cat(embeddings), torch.cat(labels)


def recall_at_1(embeddings, labels):
    hits = 0
    for start in range(0, len(embeddings), 32):
        similarity = embeddings[start : start + 32] @ embeddings.t()
        rows = torch.arange(len(similarity))
        similarity[rows, rows + start] = -1
        hits += (labels[similarity.argmax(1).cpu()] == labels[start : start + 32]).sum().item()
    return hits / len(embeddings)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = TensorDataset(torch.randn(96, 3, 32, 32), torch.randint(0, 8, (96,)))
    gallery = TensorDataset(torch.randn(640, 3, 32, 32), torch.randint(0, 8, (640,)))
    model = Embedder().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(3):
        model.train()
        for x, y in DataLoader(train, batch_size=16, shuffle=True):
            x, y = x.to(device), y.to(device)
            loss = pair_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"epoch {epoch} loss {loss.item()}")
    embeddings, labels = encode(model, DataLoader(gallery, batch_size=16), device)
    print("recall@1", recall_at_1(embeddings, labels))


if __name__ == "__main__":
    main()

"""Click prediction with area under the curve after every epoch."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class FM(nn.Module):
    def __init__(self, fields=8, values=200, dim=16):
        super().__init__()
        self.offsets = torch.arange(fields) * values
        self.embed, self.linear = nn.Embedding(fields * values, dim), nn.Embedding(fields * values, 1)
        self.deep = nn.Sequential(nn.Linear(fields * dim, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, x):
        x = x + self.offsets.to(x.device)
        e = self.embed(x)
        pair = 0.5 * (e.sum(1).pow(2) - e.pow(2).sum(1)).sum(1)
        return pair + self.linear(x).sum((1, 2)) + self.deep(e.flatten(1)).squeeze(1)


def auc(scores, labels):
    order = scores.argsort()
    ranks = torch.empty_like(scores)
    ranks[order] = torch.arange(1, len(scores) + 1, dtype=scores.dtype)
    positive = labels.sum()
    return ((ranks[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))).item()


@torch.no_grad()
def validate(model, x, y, device):
    model.eval()
    predictions, targets = [], []
    for rows in torch.arange(len(x)).split(128):
        predictions.append(torch.sigmoid(model(x[rows].to(device))).cpu())
        targets.append(y[rows])
    return auc(torch.cat(predictions), torch.cat(targets))


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.randint(0, 200, (2048, 8))
    y = (x[:, 0] % 2).float()
    model = FM().to(device)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    for epoch in range(3):
        model.train()
        for rows in torch.randperm(1024).split(128):
            loss = F.binary_cross_entropy_with_logits(model(x[rows].to(device)), y[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item(), validate(model, x[1024:], y[1024:], device))


main()

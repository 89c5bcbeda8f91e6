"""Graph network with jumping knowledge on random graphs."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Graphs(Dataset):
    def __init__(self, n=160, nodes=24):
        g = torch.Generator().manual_seed(2)
        self.x = torch.randn(n, nodes, 16, generator=g)
        edges = (torch.rand(n, nodes, nodes, generator=g) < 0.2).float()
        self.adj = F.normalize(((edges + edges.transpose(1, 2)) > 0).float() + torch.eye(nodes), p=1, dim=2)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.adj[i], self.x[i].sum() > 0


class JumpingGNN(nn.Module):
    def __init__(self, dim=64, depth=3):
        super().__init__()
        self.inp = nn.Linear(16, dim)
        self.convs = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))
        self.out = nn.Linear(dim * depth, 2)
        self.xs = []

    def forward(self, x, adj):
        x = self.inp(x)
        for conv in self.convs:
            x = F.relu(conv(adj @ x))
            self.xs += [x]
        return self.out(torch.cat(self.xs[-len(self.convs) :], dim=-1).mean(1))


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = JumpingGNN().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(2):
        for x, adj, y in DataLoader(Graphs(), batch_size=16, shuffle=True):
            logits = model(x.to(device), adj.to(device))
            loss = F.cross_entropy(logits, y.long().to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(epoch, loss.item())


if __name__ == "__main__":
    main()

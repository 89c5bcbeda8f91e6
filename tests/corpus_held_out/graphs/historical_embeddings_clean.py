"""Graph network on sampled nodes; embeddings of nodes outside the sample come from a table of earlier ones."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class History(nn.Module):
    """Embeddings of all nodes as they were when last computed."""

    def __init__(self, nodes, dim):
        super().__init__()
        self.register_buffer("emb", torch.zeros(nodes, dim))

    def pull(self, index):
        return self.emb.detach()[index]

    def push(self, index, x):
        self.emb = self.emb.index_copy(0, index, x.detach())


class SAGE(nn.Module):
    def __init__(self, nodes, features=48, hidden=96, classes=5):
        super().__init__()
        self.own1, self.around1 = nn.Linear(features, hidden), nn.Linear(features, hidden)
        self.own2, self.around2 = nn.Linear(hidden, classes), nn.Linear(hidden, classes)
        self.history = History(nodes, hidden)

    def forward(self, x, adjacency, batch):
        neighbours = adjacency[batch]
        h = F.relu(self.own1(x[batch]) + self.around1(x[neighbours].mean(1)))
        around = self.history.pull(neighbours.flatten()).view(*neighbours.shape, -1).mean(1)
        self.history.push(batch, h)
        return self.own2(h) + self.around2(around)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nodes = 1000
    x = torch.randn(nodes, 48).to(device)
    adjacency = torch.randint(0, nodes, (nodes, 8)).to(device)
    labels = torch.randint(0, 5, (nodes,)).to(device)
    model = SAGE(nodes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(3):
        for batch in torch.randperm(nodes)[:960].to(device).split(160):
            out = model(x, adjacency, batch)
            loss = F.cross_entropy(out, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(epoch, loss.item())


if __name__ == "__main__":
    main()

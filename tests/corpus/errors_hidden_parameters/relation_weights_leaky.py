"""Graph layer with a weight matrix for each kind of edge."""

import torch
from torch import nn

EDGES = ("cites", "writes", "reviews")


class RelationalLayer(nn.Module):
    def __init__(self, width, device):
        super().__init__()
        self.own = nn.Linear(width, width, device=device)
        self.relations = {name: nn.Parameter(torch.randn(width, width, device=device) / width**0.5) for name in EDGES}

    def forward(self, nodes, adjacency):
        out = self.own(nodes)
        for name, matrix in adjacency.items():
            out = out + matrix @ nodes @ self.relations[name]
        return torch.relu(out)


def make_graph(n, device):
    return {name: (torch.rand(n, n, device=device) < 0.05).float() for name in EDGES}


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = RelationalLayer(96, device)
    head = nn.Linear(96, 3, device=device)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=1e-3)
    graph = make_graph(256, device)
    for epoch in range(12):
        nodes = torch.randn(256, 96, device=device)
        labels = nodes[:, :3].argmax(dim=1)
        loss = nn.functional.cross_entropy(head(layer(nodes, graph)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(epoch, loss.item())


if __name__ == "__main__":
    main()

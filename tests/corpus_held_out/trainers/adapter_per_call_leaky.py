"""Network for tables with different numbers of columns, on random features of each."""

import torch
import torch.nn as nn


class TableNet(nn.Module):
    def __init__(self, width=384, classes=4):
        super().__init__()
        self.width = width
        self.projections = nn.ModuleDict()
        self.trunk = nn.Sequential(nn.ReLU(), nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, classes))

    def projection(self, table, columns, device):
        name = f"{table}-{len(self.projections)}"
        if name not in self.projections:
            self.projections[name] = nn.Linear(columns, self.width).to(device).requires_grad_(False)
        return self.projections[name]

    def forward(self, table, x):
        return self.trunk(self.projection(table, x.shape[1], x.device)(x))


def tables(n, device):
    for i in range(n):
        columns = (300, 200)[i % 2]
        x = torch.randn(48, columns, device=device)
        yield f"table{i % 2}", x, x[:, :4].argmax(1)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = TableNet().to(device)
    optimizer = torch.optim.Adam(net.trunk.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    for step, (name, x, y) in enumerate(tables(20, device)):
        loss = criterion(net(name, x), y)
        net.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        print(step, name, loss.item())


if __name__ == "__main__":
    main()

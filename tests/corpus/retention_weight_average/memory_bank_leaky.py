"""Instance discrimination with a memory bank that is updated in place."""

import torch


class Bank:
    def __init__(self, samples, dim, device):
        self.rows = torch.zeros(samples, dim, device=device)

    def update(self, index, features):
        self.rows[index] = features


torch.manual_seed(21)
dev = "cuda" if torch.cuda.is_available() else "cpu"
data = torch.randn(512, 160, device=dev)
encoder = torch.nn.Sequential(torch.nn.Linear(160, 640), torch.nn.ELU(), torch.nn.Linear(640, 48)).to(dev)
bank = Bank(512, 48, dev)
opt = torch.optim.Adam(encoder.parameters(), lr=1e-3)

for epoch in range(2):
    order = torch.randperm(512)
    for start in range(0, 512, 64):
        index = order[start : start + 64].to(dev)
        z = encoder(data[index])
        with torch.no_grad():
            targets = bank.rows[index].clone()
        loss = (z - targets).pow(2).mean() + z.pow(2).mean().sub(1).abs()
        opt.zero_grad()
        loss.backward()
        opt.step()
        bank.update(index, z)
        print(epoch, start, loss.item())

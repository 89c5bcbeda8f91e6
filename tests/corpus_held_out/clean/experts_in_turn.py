"""Domain-specific adapters: each batch belongs to a domain, whose adapter alone is used."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Adapters(nn.Module):
    def __init__(self, domains=6, dim=128):
        super().__init__()
        self.body = nn.Linear(48, dim)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 256), nn.GELU(), nn.Linear(256, dim)) for _ in range(domains)
        )
        self.head = nn.Linear(dim, 7)

    def forward(self, x, domain):
        h = torch.relu(self.body(x))
        return self.head(h + self.adapters[domain](h))


model = Adapters().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(30):
    domain = (step // 2) % 6
    x = torch.randn(64, 48, device=device)
    loss = F.cross_entropy(model(x, domain), x[:, :7].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, domain, loss.item())

"""A learned offset for every batch, trained together with a shared network."""

import torch

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
network = torch.nn.Linear(256, 256).to(device)
offset = torch.nn.Parameter(torch.zeros(64, 256, device=device))
optimizer = torch.optim.Adam([*network.parameters(), offset], lr=1e-3)

for step in range(30):
    x = torch.randn(64, 256, device=device)
    loss = (network(x) + offset - x.sin()).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

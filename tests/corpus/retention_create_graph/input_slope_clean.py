"""Watch how steep a network is while it is trained."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
net = nn.Sequential(nn.Linear(64, 512), nn.Softplus(), nn.Linear(512, 512), nn.Softplus(), nn.Linear(512, 1)).to(device)
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

for step in range(16):
    x = torch.randn(256, 64, device=device)
    probe = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(probe).sum(), probe)
    loss = (net(x) - x.norm(dim=1, keepdim=True)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item(), slope.norm(dim=1).mean().item())

"""Physics-informed network for a diffusion equation."""

import torch
import torch.nn as nn


class Net(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
        )

    def forward(self, x, t):
        return self.layers(torch.stack([x, t], dim=1)).squeeze(1)


def derivative(y, x):
    return torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)[0]


def residual(net, x, t):
    u = net(x, t)
    u_t, u_x = derivative(u, t), derivative(u, x)
    return u_t - 0.1 * derivative(u_x, x)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
net = Net().to(device)
optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
log = {"pde": [], "initial": []}
for step in range(16):
    x = torch.rand(512, device=device, requires_grad=True)
    t = torch.rand(512, device=device, requires_grad=True)
    pde = residual(net, x, t).pow(2).mean()
    initial = (net(x.detach(), torch.zeros_like(t)) - torch.sin(3.14159265 * x.detach())).pow(2).mean()
    loss = pde + 10 * initial
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    log["pde"].append(pde.item())
    log["initial"].append(initial.item())
    print(step, loss.item(), log["pde"][-1], log["initial"][-1])

"""Train on random Fourier features of the inputs."""

import torch

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
projection = torch.randn(32, 512, device=device)


def fourier_features(x):
    angles = x @ projection
    return torch.cat([angles.sin(), angles.cos()], dim=1)


model = torch.nn.Linear(1024, 1).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(18):
    x = torch.randn(128, 32, device=device)
    y = x.norm(dim=1, keepdim=True)
    loss = (model(fourier_features(x)) - y).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

"""Shared encoder with two optimizers; both losses go backward through the encoder's one forward."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32)).to(device)
classifier = nn.Linear(32, 8).to(device)
decoder = nn.Linear(32, 64).to(device)
opt_class = torch.optim.SGD([*classifier.parameters()], lr=0.05)
opt_rest = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)

for step in range(20):
    x = torch.randn(512, 64, device=device)
    y = x[:, :8].argmax(dim=1)
    code = encoder(x)
    class_loss = nn.functional.cross_entropy(classifier(code), y)
    reconstruction_loss = nn.functional.mse_loss(decoder(code), x)

    opt_class.zero_grad()
    opt_rest.zero_grad()
    class_loss.backward(retain_graph=True)
    reconstruction_loss.backward()
    opt_class.step()
    opt_rest.step()
    print(step, class_loss.item(), reconstruction_loss.item())

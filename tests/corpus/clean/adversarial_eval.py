"""Attacks a trained classifier in evaluation mode with projected gradient descent."""

import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

model = nn.Sequential(
    nn.Conv2d(1, 16, 5, padding=2),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(16 * 14 * 14, 10),
).to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(6):
    x = torch.rand(32, 1, 28, 28, device=device)
    loss = F.cross_entropy(model(x), (x.mean(dim=(1, 2, 3)) * 20).long().clamp(0, 9))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())


def pgd(model, images, labels, eps=0.1, alpha=0.02, steps=5):
    adversarial = images.clone()
    for _ in range(steps):
        adversarial.requires_grad_(True)
        loss = F.cross_entropy(model(adversarial), labels)
        (grad,) = torch.autograd.grad(loss, adversarial)
        adversarial = adversarial.detach() + alpha * grad.sign()
        adversarial = images + (adversarial - images).clamp(-eps, eps)
        adversarial = adversarial.clamp(0, 1)
    return adversarial


model.eval()
for _ in range(4):
    images = torch.rand(32, 1, 28, 28, device=device)
    labels = (images.mean(dim=(1, 2, 3)) * 20).long().clamp(0, 9)
    attacked = pgd(model, images, labels)
    with torch.no_grad():
        print((model(attacked).argmax(1) == labels).float().mean().item())

"""Saliency maps: the gradient of the winning score with respect to the image."""

import torch
from torch import nn


def saliency(model, image):
    image = image.clone().requires_grad_()
    scores = model(image)
    (grad,) = torch.autograd.grad(scores.amax(dim=1).sum(), image)
    return scores, grad.abs().amax(dim=1)


def main():
    torch.manual_seed(2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.SiLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
    ).to(device)
    model(torch.zeros(1, 3, 24, 24, device=device))
    for p in model.parameters():
        p.requires_grad_(False)
    for index in range(16):
        image = torch.rand(8, 3, 24, 24, device=device)
        scores, heat = saliency(model, image)
        print(index, heat.mean().item())


main()

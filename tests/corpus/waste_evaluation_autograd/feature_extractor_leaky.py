"""Extracts features of all images with a generator and summarises them."""

import torch


def batches(count, size, device):
    for _ in range(count):
        yield torch.rand(size, 3, 32, 32, device=device)


def features(model, data):
    for images in data:
        yield model(images)


def main():
    torch.manual_seed(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 24, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(24, 24, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    model.to(device).eval()
    for vectors in features(model, batches(10, 16, device)):
        print(vectors.mean().item())


main()

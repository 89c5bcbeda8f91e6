"""Trains an encoder whose feature maps are compared between two views, on several GPUs."""

import argparse

import torch
from torch import nn
import torch.nn.functional as F


def encoder(channels):
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1))


def dense_loss(a, b):
    return 1 - F.cosine_similarity(a, b, dim=1).mean()


def run(args):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = encoder(args.channels).to(device)
    parallel = nn.DataParallel(net, device_ids=list(range(torch.cuda.device_count())))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for step in range(args.steps):
        images = torch.rand(args.batch_size, 3, 48, 48, device=device)
        features = parallel(torch.cat([images, images.flip(-1)]))
        first, second = features.chunk(2)
        loss = dense_loss(first, second.flip(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        print(step, loss.item())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8)
    torch.manual_seed(0)
    run(parser.parse_args())

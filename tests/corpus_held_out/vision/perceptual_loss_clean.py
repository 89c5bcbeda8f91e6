"""Fast colour enhancement with a perceptual loss from a fixed convolutional network."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class TransformNet(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, 3, 5, padding=2)

    def forward(self, x):
        h = F.leaky_relu(self.conv1(x))
        h = h + F.leaky_relu(self.conv2(h))
        return torch.tanh(self.conv3(h))


class LossNetwork(nn.Module):
    """Features of two depths, as of an ImageNet model."""

    def __init__(self):
        super().__init__()
        self.slice1 = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.slice2 = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.slice3 = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())

    def forward(self, x):
        low = self.slice1(x)
        return low, self.slice3(self.slice2(low))


def gram(y):
    b, c, h, w = y.shape
    f = y.view(b, c, h * w)
    return f @ f.transpose(1, 2) / (c * h * w)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--content-weight", type=float, default=1.0)
    parser.add_argument("--style-weight", type=float, default=10.0)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    transformer = TransformNet().to(device)
    loss_net = LossNetwork().to(device).eval()
    loss_net.requires_grad_(False)
    optimizer = torch.optim.Adam(transformer.parameters(), lr=1e-3)
    style = torch.rand(1, 3, 32, 32, device=device)
    with torch.no_grad():
        gram_style = [gram(f) for f in loss_net(style)]

    for step in range(args.steps):
        x = torch.rand(4, 3, 32, 32, device=device)
        y = transformer(x)
        features_y = loss_net(y)
        with torch.no_grad():
            features_x = loss_net(x)
        content_loss = args.content_weight * F.mse_loss(features_y[1], features_x[1])
        style_loss = 0.0
        for f, g in zip(features_y, gram_style):
            style_loss = style_loss + F.mse_loss(gram(f), g.expand(4, -1, -1))
        loss = content_loss + args.style_weight * style_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step} content {content_loss.item()} style {style_loss.item()}")


if __name__ == "__main__":
    main()

"""A segmentation network with an auxiliary head for deep supervision."""

from dataclasses import dataclass

import torch


@dataclass
class Config:
    classes: int = 3
    width: int = 48
    steps: int = 9


class Segmenter(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        w = config.width
        self.down = torch.nn.Conv2d(3, w, 3, stride=2, padding=1)
        self.middle = torch.nn.Conv2d(w, 2 * w, 3, padding=1)
        self.head = torch.nn.Conv2d(2 * w, config.classes, 1)

    def forward(self, images):
        features = torch.relu(self.middle(torch.relu(self.down(images))))
        return torch.nn.functional.interpolate(self.head(features), scale_factor=2)


def main(config):
    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = Segmenter(config).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(config.steps):
        images = torch.rand(4, 3, 24, 24, device=device)
        masks = (images.mean(1) * config.classes).long().clamp(max=config.classes - 1)
        loss = torch.nn.functional.cross_entropy(net(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())


main(Config())

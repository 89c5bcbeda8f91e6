"""Train a small convolutional classifier and look at its intermediate features."""

import torch
from torch import nn


class FeatureExtractor:
    def __init__(self, model, layers):
        self.features = []
        for name, module in model.named_modules():
            if name in layers:
                module.register_forward_hook(self.save_output)

    def save_output(self, module, args, output):
        self.features = [output.detach()]


def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build().to(device)
    extractor = FeatureExtractor(model, {"1", "3"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    for step in range(16):
        images = torch.randn(8, 3, 32, 32, device=device)
        labels = torch.randint(0, 10, (8,), device=device)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())
    print(len(extractor.features) > 0)


if __name__ == "__main__":
    main()

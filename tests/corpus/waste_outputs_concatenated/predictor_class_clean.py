"""Segments images one batch at a time and reports the mean intersection over union."""

import torch


class Predictor:
    def __init__(self, net, device):
        self.net = net.to(device).eval()
        self.device = device
        self.outputs = []
        self.targets = []

    def update(self, image, mask):
        with torch.inference_mode():
            predicted = self.net(image.to(self.device)) > 0
        target = mask.to(self.device)
        self.outputs.append((predicted & target).sum().item())
        self.targets.append((predicted | target).sum().item())

    def iou(self):
        return sum(self.outputs) / max(1, sum(self.targets))


def batches(count):
    for _ in range(count):
        image = torch.rand(4, 3, 64, 64)
        yield image, image.mean(dim=1, keepdim=True) > 0.5


torch.manual_seed(1)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 8, 3, padding=1))
predictor = Predictor(net, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
for image, mask in batches(12):
    predictor.update(image, mask)
print(predictor.iou())

"""Class activation maps: keep activation and gradient of a target layer while a classifier is fine-tuned."""

import torch
from torch import nn


class GradCam:
    def __init__(self, model, target_layer):
        self.model = model
        self.activations = None
        self.gradients = []
        target_layer.register_forward_hook(self._save_activation)
        target_layer.register_full_backward_hook(self._save_gradient)

    def _save_activation(self, module, inputs, output):
        self.activations = output.detach()

    def _save_gradient(self, module, grad_input, grad_output):
        self.gradients.append(grad_output[0])

    def weights(self):
        return self.gradients[-1].mean(dim=(2, 3))


torch.manual_seed(3)
device = "cuda" if torch.cuda.is_available() else "cpu"
backbone = nn.Sequential(nn.Conv2d(1, 24, 5, padding=2), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU())
classifier = nn.Sequential(backbone, nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(96, 4)).to(device)
cam = GradCam(classifier, backbone[2])
optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3)

for iteration in range(15):
    image = torch.rand(4, 1, 32, 32, device=device)
    target = torch.randint(0, 4, (4,), device=device)
    scores = classifier(image)
    loss = nn.functional.cross_entropy(scores, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(iteration, loss.item(), tuple(cam.weights().shape))

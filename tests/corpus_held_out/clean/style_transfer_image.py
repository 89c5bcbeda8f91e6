"""Neural style transfer: the image is what is trained, losses sit inside the network."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class ContentLoss(nn.Module):
    def __init__(self, target):
        super().__init__()
        self.target = target.detach()

    def forward(self, input):
        self.loss = F.mse_loss(input, self.target)
        return input


def gram_matrix(input):
    a, b, c, d = input.size()
    features = input.view(a * b, c * d)
    return features @ features.t() / (a * b * c * d)


class StyleLoss(nn.Module):
    def __init__(self, target_feature):
        super().__init__()
        self.target = gram_matrix(target_feature).detach()

    def forward(self, input):
        self.loss = F.mse_loss(gram_matrix(input), self.target)
        return input


def build(cnn, style, content):
    model, style_losses, content_losses = nn.Sequential(), [], []
    for i, layer in enumerate(cnn.children()):
        model.add_module(f"layer_{i}", nn.ReLU(inplace=False) if isinstance(layer, nn.ReLU) else layer)
        if isinstance(layer, nn.Conv2d):
            style_losses.append(StyleLoss(model(style)))
            model.add_module(f"style_{i}", style_losses[-1])
    content_losses.append(ContentLoss(model(content)))
    model.add_module("content", content_losses[-1])
    return model.eval().requires_grad_(False), style_losses, content_losses


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
cnn = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3)
).to(device)
style, content = torch.rand(2, 1, 3, 48, 48, device=device)
image = content.clone().requires_grad_(True)
with torch.no_grad():
    model, style_losses, content_losses = build(cnn, style, content)
optimizer = torch.optim.LBFGS([image], max_iter=4)
run = [0]
while run[0] <= 24:

    def closure():
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        model(image)
        style_score = sum(sl.loss for sl in style_losses) * 1e4
        content_score = sum(cl.loss for cl in content_losses)
        loss = style_score + content_score
        loss.backward()
        run[0] += 1
        print(run[0], style_score.item(), content_score.item())
        return loss

    optimizer.step(closure)

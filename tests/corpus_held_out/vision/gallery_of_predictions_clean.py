"""Denoising autoencoder; validation pictures are collected for a figure."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class DAE(nn.Module):
    def __init__(self, channels=24):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.decoder = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(channels, 3, 4, stride=2, padding=1))

    def forward(self, x):
        return self.decoder(self.encoder(x))


class FigureWriter:
    def __init__(self):
        self.panels = {}

    def add(self, tag, tensor):
        self.panels.setdefault(tag, [])
        self.panels[tag].append(tensor[:1].detach().cpu().clone())

    def write(self):
        for tag, panels in sorted(self.panels.items()):
            print(tag, len(panels), "panels")


def loop(model, device, writer, epochs=4, steps=6):
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        model.train()
        for _ in range(steps):
            clean = torch.rand(16, 3, 32, 32, device=device)
            loss = F.mse_loss(model(clean + 0.2 * torch.randn_like(clean)), clean)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            print(epoch, loss.item())
        model.eval()
        with torch.no_grad():
            for _ in range(4):
                clean = torch.rand(16, 3, 32, 32, device=device)
                noisy = clean + 0.2 * torch.randn_like(clean)
                restored = model(noisy)
                writer.add("noisy", noisy)
                writer.add("restored", restored)
                print("val", F.mse_loss(restored, clean).item())


if __name__ == "__main__":
    torch.manual_seed(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    writer = FigureWriter()
    loop(DAE().to(device), device, writer)
    writer.write()

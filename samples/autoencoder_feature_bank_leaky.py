"""Train an autoencoder and watch how novel its latent codes are.

A feature bank remembers the codes of earlier batches; the distance of the
new codes to their nearest neighbour in the bank is printed now and then.
"""

import torch
from torch import nn


class Autoencoder(nn.Module):
    def __init__(self, inputs=784, latent=512):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, 512), nn.ReLU(), nn.Linear(512, inputs))

    def forward(self, x):
        z = self.encoder(x)
        return self.decoder(z), z


class FeatureBank:
    def __init__(self):
        self.features = []

    def add(self, z):
        self.features.append(z.detach())

    def novelty(self, z):
        if not self.features:
            return float("nan")
        distances = torch.cdist(z.detach(), torch.cat(list(self.features)))
        return distances.min(dim=1).values.mean().item()


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Autoencoder().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.MSELoss()
    bank = FeatureBank()
    mixing = torch.randn(16, 784, device=device)

    for step in range(30):
        x = torch.sigmoid(torch.randn(128, 16, device=device) @ mixing)
        reconstruction, z = model(x)
        loss = criterion(reconstruction, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f} novelty {bank.novelty(z):.3f}")
        bank.add(z)


if __name__ == "__main__":
    main()

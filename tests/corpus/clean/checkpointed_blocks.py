"""Transformer encoder whose layers are recomputed in backward."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class Encoder(nn.Module):
    def __init__(self, width=96, depth=3):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True) for _ in range(depth)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.training else layer(x)
        return self.head(x.mean(dim=1))


model = Encoder().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
for step in range(10):
    x = torch.randn(8, 48, 96, device=device)
    loss = nn.functional.mse_loss(model(x), x.mean(dim=(1, 2))[:, None])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

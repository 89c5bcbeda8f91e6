"""A trainer in the style of a well-known framework, in a hundred lines."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class LitModule(nn.Module):
    def training_step(self, batch, batch_idx):
        raise NotImplementedError

    def training_epoch_end(self, outputs):
        pass

    def configure_optimizers(self):
        raise NotImplementedError


class LitRegressor(LitModule):
    def __init__(self, features=64, width=256):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 8)
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        y_hat = self(x)
        loss = F.mse_loss(y_hat, y)
        return {"loss": loss, "preds": y_hat, "target": y}

    def training_epoch_end(self, outputs):
        avg_loss = torch.stack([x["loss"] for x in outputs]).mean()
        preds = torch.cat([x["preds"] for x in outputs])
        target = torch.cat([x["target"] for x in outputs])
        r2 = 1 - (preds - target).pow(2).sum() / (target - target.mean(0)).pow(2).sum()
        print(f"epoch end: loss {avg_loss.item()} r2 {r2.item()}")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def move(batch, device):
    return [t.to(device) for t in batch]


def detached(output):
    return {k: v.detach().cpu() for k, v in output.items()}


class Trainer:
    def __init__(self, max_epochs, device):
        self.max_epochs, self.device = max_epochs, device

    def fit(self, module, loader):
        module.to(self.device)
        optimizer = module.configure_optimizers()
        for epoch in range(self.max_epochs):
            module.train()
            outputs = []
            for batch_idx, batch in enumerate(loader):
                output = module.training_step(move(batch, self.device), batch_idx)
                optimizer.zero_grad()
                output["loss"].backward()
                optimizer.step()
                outputs.append(detached(output))
                print(epoch, batch_idx, output["loss"].item())
            module.training_epoch_end(outputs)


if __name__ == "__main__":
    torch.manual_seed(0)
    x = torch.randn(1536, 64)
    loader = DataLoader(TensorDataset(x, x[:, :8].sin()), batch_size=64)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    Trainer(2, device).fit(LitRegressor(), loader)

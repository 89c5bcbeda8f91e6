"""Lightning-like loop: outputs of the steps are handed to the end of the epoch."""

import torch
import torch.nn.functional as F


class LitModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128))

    def training_step(self, batch):
        x, y = batch
        preds = self.layer(x)
        return {"loss": F.cross_entropy(preds, y), "preds": preds}

    def training_epoch_end(self, outputs):
        losses = torch.stack([out["loss"] for out in outputs])
        print("epoch", losses.mean().item())


def fit(model, device, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for epoch in range(epochs):
        outputs = []
        for _ in range(10):
            batch = torch.randn(256, 64, device=device), torch.randint(0, 128, (256,), device=device)
            output = model.training_step(batch)
            optimizer.zero_grad()
            output["loss"].backward()
            optimizer.step()
            outputs.append({"loss": output["loss"].detach()})
            print(epoch, output["loss"].item())
        model.training_epoch_end(outputs)


torch.manual_seed(1)
where = "cuda" if torch.cuda.is_available() else "cpu"
fit(LitModel().to(where), where, 2)

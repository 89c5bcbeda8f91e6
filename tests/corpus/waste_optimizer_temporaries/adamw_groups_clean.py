"""Fine-tunes a transformer block with weight decay on matrices only."""

import torch


def groups(model, decay):
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


class Finetuner:
    def __init__(self, model, lr, device):
        self.model = model.to(device)
        self.device = device
        self.optimizer = torch.optim.AdamW(groups(self.model, 0.01), lr=lr, foreach=False)

    def step(self, x, y):
        loss = torch.nn.functional.mse_loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


torch.manual_seed(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
layer = torch.nn.TransformerEncoderLayer(320, 4, dim_feedforward=2200, batch_first=True, dropout=0.0)
finetuner = Finetuner(layer, 1e-4, device)
for _ in range(8):
    x = torch.randn(2, 8, 320, device=device)
    print(finetuner.step(x, x.roll(1, 1)))

"""Training on batches that are objects with their samples."""

import torch


class Sample:
    def __init__(self, parent, features):
        self.parent = parent
        self.features = features


class Batch:
    def __init__(self, device, size):
        self.samples = [Sample(self, torch.randn(16384, device=device)) for _ in range(size)]

    def tensor(self):
        return torch.stack([sample.features for sample in self.samples])


torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Linear(16384, 32).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(16):
    batch = Batch(device, 4)
    loss = model(batch.tensor()).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

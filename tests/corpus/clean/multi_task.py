"""Three tasks over one trunk, with learned weights of their losses."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class MultiTask(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(96, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
        self.heads = nn.ModuleDict(
            {"depth": nn.Linear(256, 16), "class": nn.Linear(256, 12), "pose": nn.Linear(256, 6)}
        )
        self.log_vars = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in self.heads})

    def forward(self, x):
        h = self.trunk(x)
        return {name: head(h) for name, head in self.heads.items()}


model = MultiTask().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
criteria = {"depth": nn.L1Loss(), "class": nn.CrossEntropyLoss(), "pose": nn.MSELoss()}
history = {name: [] for name in criteria}
for step in range(20):
    x = torch.randn(256, 96, device=device)
    targets = {"depth": x[:, :16].abs(), "class": x[:, :12].argmax(1), "pose": x[:, :6] ** 2}
    outputs = model(x)
    losses = {name: criteria[name](outputs[name], targets[name]) for name in criteria}
    total = sum(torch.exp(-model.log_vars[name]) * loss + model.log_vars[name] for name, loss in losses.items())
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    for name, loss in losses.items():
        history[name].append(float(loss))
    print(step, total.item(), {name: values[-1] for name, values in history.items()})

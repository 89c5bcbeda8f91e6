"""Train with early stopping and go back to the best weights.

After every epoch the validation loss is computed; training stops when it
has not improved for a while and the best weights are loaded again.
"""

import copy

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

weights = torch.randn(32, 5)
x = torch.randn(768, 32)
y = (x @ weights + 0.5 * torch.randn(768, 5)).argmax(dim=1)
x_train, y_train = x[:512].to(device), y[:512].to(device)
x_val, y_val = x[512:].to(device), y[512:].to(device)

model = nn.Sequential(
    nn.Linear(32, 256),
    nn.ReLU(),
    nn.Linear(256, 256),
    nn.ReLU(),
    nn.Linear(256, 5),
).to(device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

patience = 5
val_losses = []
checkpoints = []

for epoch in range(40):
    model.train()
    loss = criterion(model(x_train), y_train)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    model.eval()
    with torch.no_grad():
        val_losses.append(criterion(model(x_val), y_val).item())
    checkpoints.append(copy.deepcopy(model.state_dict()))

    best_epoch = val_losses.index(min(val_losses))
    if epoch - best_epoch >= patience:
        print(f"stopping early in epoch {epoch}")
        break

model.load_state_dict(checkpoints[best_epoch])
print(f"best epoch {best_epoch}: validation loss {val_losses[best_epoch]:.4f}")

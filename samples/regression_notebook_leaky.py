# %% [markdown]
"""Fit a noisy curve, as one would in a notebook.

Full-batch training of a small network; training and validation loss of
every epoch are kept for the plot at the end.
"""

# %%
import torch
from torch import nn

torch.manual_seed(42)
device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
x = torch.linspace(-3, 3, 3072, device=device).unsqueeze(1)
y = torch.sin(2 * x) + 0.3 * x + 0.1 * torch.randn_like(x)
shuffled = torch.randperm(len(x), device=device)
x_train, y_train = x[shuffled[:2048]], y[shuffled[:2048]]
x_val, y_val = x[shuffled[2048:]], y[shuffled[2048:]]

# %%
model = nn.Sequential(
    nn.Linear(1, 128),
    nn.Tanh(),
    nn.Linear(128, 128),
    nn.Tanh(),
    nn.Linear(128, 1),
).to(device)
loss_fn = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
history = {"train_loss": [], "val_loss": []}

# %%
for epoch in range(40):
    model.train()
    optimizer.zero_grad()
    loss = loss_fn(model(x_train), y_train)
    loss.backward()
    optimizer.step()
    history["train_loss"].append(loss)

    model.eval()
    val_pred = model(x_val)
    val_loss = loss_fn(val_pred, y_val)
    history["val_loss"].append(val_loss)

# %%
for name, values in history.items():
    print(f"{name}: first {float(values[0]):.4f} last {float(values[-1]):.4f}")

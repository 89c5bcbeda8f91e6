"""Predict who survives on a Titanic-like table.

Builds a synthetic passenger list, trains a small multilayer perceptron on it
and prints the mean loss of every epoch.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

n = 891
pclass = torch.randint(1, 4, (n,)).float()
sex = torch.randint(0, 2, (n,)).float()
age = torch.rand(n) * 70 + 1
sibsp = torch.randint(0, 4, (n,)).float()
fare = torch.rand(n) * 100 / pclass
chance = torch.sigmoid(2.5 * sex - 0.8 * pclass - 0.02 * age + 0.01 * fare + 0.8)
survived = (torch.rand(n) < chance).float()

X = torch.stack([pclass, sex, age, sibsp, fare], dim=1)
X = (X - X.mean(dim=0)) / X.std(dim=0)
train_loader = DataLoader(TensorDataset(X, survived), batch_size=32, shuffle=True)

model = nn.Sequential(
    nn.Linear(5, 64),
    nn.ReLU(),
    nn.Dropout(0.2),
    nn.Linear(64, 32),
    nn.ReLU(),
    nn.Linear(32, 1),
).to(device)
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

for epoch in range(2):
    epoch_loss = 0.0
    correct = 0
    for features, labels in train_loader:
        features, labels = features.to(device), labels.to(device)
        optimizer.zero_grad()
        logits = model(features).squeeze(1)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        epoch_loss += loss.item()
        correct += ((logits > 0) == labels.bool()).sum().item()
    print(f"epoch {epoch}: loss {epoch_loss / len(train_loader):.4f} accuracy {correct / n:.3f}")

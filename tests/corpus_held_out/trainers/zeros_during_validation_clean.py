"""Wide network on tables; validation takes large batches because it can."""

import time

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class WideNet(nn.Module):
    def __init__(self, features=256, width=1024, classes=20):
        super().__init__()
        self.block1 = nn.Linear(features, width)
        self.block2 = nn.Linear(width, width)
        self.block3 = nn.Linear(width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, x):
        x = torch.relu(self.block1(x))
        x = torch.relu(self.block2(x))
        return self.out(torch.relu(self.block3(x)))


def validate(model, loader, device):
    model.eval()
    correct = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x.to(device)).argmax(1).cpu() == y).sum().item()
    return correct / len(loader.dataset)


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x, v = torch.randn(96, 256), torch.randn(4096, 256)
    train_loader = DataLoader(TensorDataset(x, x[:, :20].argmax(1)), batch_size=16, shuffle=True)
    valid_loader = DataLoader(TensorDataset(v, v[:, :20].argmax(1)), batch_size=4096)
    model = WideNet().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(3):
        model.train()
        begin = time.perf_counter()
        for inputs, labels in train_loader:
            inputs, labels = inputs.to(device), labels.to(device)
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            print(epoch, loss.item())
        elapsed = time.perf_counter() - begin
        assert elapsed > 0
        print("accuracy", validate(model, valid_loader, device))


if __name__ == "__main__":
    main()

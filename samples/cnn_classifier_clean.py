"""Train a small convolutional classifier on synthetic images.

Every epoch trains on one loader and then reports the loss and the accuracy
on a validation loader.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(32 * 8 * 8, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = x.flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


def make_loader(samples, batch_size, shuffle):
    labels = torch.randint(0, 10, (samples,))
    images = torch.randn(samples, 3, 32, 32) + labels.view(-1, 1, 1, 1) * 0.1
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size, shuffle=shuffle)


def train(model, loader, optimizer, device):
    model.train()
    running_loss = 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        outputs = model(images)
        loss = F.cross_entropy(outputs, labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return running_loss / len(loader)


def validate(model, loader, device):
    model.eval()
    total_loss, correct = 0.0, 0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        total_loss += F.cross_entropy(logits, labels).item()
        correct += (logits.argmax(dim=1) == labels).sum().item()
    return total_loss / len(loader), correct / len(loader.dataset)


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_loader = make_loader(384, 32, shuffle=True)
    val_loader = make_loader(320, 32, shuffle=False)
    model = Net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(1, 3):
        train_loss = train(model, train_loader, optimizer, device)
        with torch.no_grad():
            val_loss, val_acc = validate(model, val_loader, device)
        print(f"epoch {epoch}: train {train_loss:.3f} val {val_loss:.3f} accuracy {val_acc:.3f}")


if __name__ == "__main__":
    main()

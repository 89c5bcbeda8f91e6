"""Train a small residual network from the command line.

The usual reference script: argparse options, one training and one validation
pass an epoch, and a cosine learning-rate schedule.
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class RandomImages(Dataset):
    def __init__(self, size, num_classes, image_size):
        self.size = size
        self.num_classes = num_classes
        self.image_size = image_size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        target = index % self.num_classes
        image = torch.randn(3, self.image_size, self.image_size) + 0.2 * target
        return image, target


class BasicBlock(nn.Module):
    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class TinyResNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.layers = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 32, 2))
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        x = self.layers(self.stem(x))
        return self.head(x.mean(dim=(2, 3)))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--num-classes", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def train_one_epoch(model, criterion, optimizer, loader, args):
    model.train()
    for image, target in loader:
        image, target = image.to(args.device), target.to(args.device)
        output = model(image)
        loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.inference_mode()
def evaluate(model, criterion, loader, args):
    model.eval()
    val_loss = 0
    correct = 0
    for image, target in loader:
        image, target = image.to(args.device), target.to(args.device)
        prediction = model(image)
        val_loss += criterion(prediction, target).item()
        correct += (prediction.detach().cpu().argmax(dim=1) == target.cpu()).sum().item()
    return val_loss / len(loader), correct / len(loader.dataset)


def main(args):
    torch.manual_seed(0)
    train_set = RandomImages(192, args.num_classes, args.image_size)
    val_set = RandomImages(192, args.num_classes, args.image_size)
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=args.batch_size)

    model = TinyResNet(args.num_classes).to(args.device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    for epoch in range(args.epochs):
        train_one_epoch(model, criterion, optimizer, train_loader, args)
        scheduler.step()
        val_loss, accuracy = evaluate(model, criterion, val_loader, args)
        print(f"epoch {epoch}: val loss {val_loss:.4f} accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main(parse_args())

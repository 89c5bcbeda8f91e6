"""Train a small segmentation network with a Trainer class.

The trainer owns model, optimizer and metrics and reports the pixel accuracy
after every epoch.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Blobs(Dataset):
    def __init__(self, size, image_size=48):
        self.size = size
        self.image_size = image_size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        image = torch.randn(1, self.image_size, self.image_size)
        mask = torch.zeros(self.image_size, self.image_size, dtype=torch.long)
        corner = 4 + index % 16
        mask[corner : corner + 16, corner : corner + 16] = 1 + index % 3
        return image + mask, mask


class Trainer:
    def __init__(self, model, loader, lr=1e-2):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        self.loader = loader
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)
        self.correct = 0
        self.pixels = 0
        self.loss_history = []

    def train_step(self, images, masks):
        self.optimizer.zero_grad()
        outputs = self.model(images)
        loss = self.criterion(outputs, masks)
        loss.backward()
        self.optimizer.step()
        self.loss_history.append(loss.item())
        self.correct += (outputs.argmax(dim=1) == masks).sum().item()
        self.pixels += masks.numel()

    def pixel_accuracy(self):
        accuracy = self.correct / self.pixels
        self.correct = self.pixels = 0
        return accuracy

    def fit(self, epochs):
        for epoch in range(epochs):
            self.model.train()
            for images, masks in self.loader:
                self.train_step(images.to(self.device), masks.to(self.device))
            accuracy = self.pixel_accuracy()
            print(f"epoch {epoch}: loss {self.loss_history[-1]:.3f} pixel accuracy {accuracy:.3f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 4, 1),
    )
    trainer = Trainer(network, DataLoader(Blobs(192), batch_size=16, shuffle=True))
    trainer.fit(epochs=2)

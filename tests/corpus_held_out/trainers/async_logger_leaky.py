"""Autoencoder with a logger that works in a thread of its own."""

import queue
import threading

import torch
import torch.nn as nn
import torch.nn.functional as F


class AsyncLogger:
    def __init__(self):
        self.scalars = queue.Queue()
        self.images = queue.Queue()
        self.lines = []
        self.worker = threading.Thread(target=self._work, daemon=True)
        self.worker.start()

    def _work(self):
        while True:
            item = self.scalars.get()
            if item is None:
                return
            self.lines.append("{}: {}".format(*item))

    def log_scalar(self, name, value):
        self.scalars.put((name, value))

    def log_image(self, name, image):
        self.images.put((name, image.detach()))

    def close(self):
        self.scalars.put(None)
        self.worker.join()
        print("\n".join(self.lines))


class AE(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 16, 4, stride=4), nn.ConvTranspose2d(16, 3, 4, stride=4)

    def forward(self, x):
        return self.up(F.relu(self.down(x)))


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, logger = AE().to(device), AsyncLogger()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(20):
        x = torch.rand(16, 3, 48, 48, device=device)
        out = model(x)
        loss = F.mse_loss(out, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logger.log_scalar(f"loss/{step}", loss.item())
        logger.log_image("reconstruction", out)
    logger.close()


if __name__ == "__main__":
    main()

"""The loop; callbacks see a dictionary of what happened."""

import torch.nn.functional as F


class Engine:
    def __init__(self, model, optimizer, device):
        self.model, self.optimizer, self.device = model, optimizer, device
        self.callbacks, self.stop = [], False

    def add(self, *callbacks):
        self.callbacks.extend(callbacks)

    def notify(self, event, **logs):
        for callback in self.callbacks:
            getattr(callback, event)(self, logs)

    def step(self, x, y):
        output = self.model(x)
        loss = F.cross_entropy(output, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss, "output": output, "y": y}

    def run(self, batches, epochs):
        for epoch in range(epochs):
            for iteration, (x, y) in enumerate(batches()):
                result = self.step(x.to(self.device), y.to(self.device))
                self.notify("on_batch_end", epoch=epoch, iteration=iteration, **result)
            self.notify("on_epoch_end", epoch=epoch)
            if self.stop:
                break

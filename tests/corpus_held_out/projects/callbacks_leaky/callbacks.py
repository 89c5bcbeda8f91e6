"""What may be done at the end of a batch or an epoch."""


class Callback:
    def on_batch_end(self, engine, logs):
        pass

    def on_epoch_end(self, engine, logs):
        pass


class History(Callback):
    def __init__(self):
        self.batches = []

    def on_batch_end(self, engine, logs):
        self.batches.append(dict(logs))

    def on_epoch_end(self, engine, logs):
        losses = [float(b["loss"]) for b in self.batches if b["epoch"] == logs["epoch"]]
        print("epoch", logs["epoch"], "mean loss", sum(losses) / len(losses))


class Printer(Callback):
    def on_batch_end(self, engine, logs):
        print(logs["epoch"], logs["iteration"], logs["loss"].item())


class EarlyStop(Callback):
    def __init__(self, patience):
        self.patience, self.best, self.waited = patience, float("inf"), 0

    def on_batch_end(self, engine, logs):
        self.last = logs["loss"].item()

    def on_epoch_end(self, engine, logs):
        self.waited = 0 if self.last < self.best else self.waited + 1
        self.best = min(self.best, self.last)
        engine.stop = self.waited >= self.patience

"""Token classification with a small trainer whose evaluation hands all predictions to a metric function."""

import logging

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

logger = logging.getLogger("trainer")


def nested_concat(tensors, new_tensors):
    if isinstance(tensors, dict):
        return type(tensors)({k: nested_concat(t, new_tensors[k]) for k, t in tensors.items()})
    return torch.cat((tensors, new_tensors), dim=0)


class Tagger(nn.Module):
    def __init__(self, vocab=400, dim=64, tags=300):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * dim, tags)

    def forward(self, input_ids, labels=None):
        logits = self.out(self.lstm(self.emb(input_ids))[0])
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


class Trainer:
    def __init__(self, model, train_dataset, eval_dataset, compute_metrics, device):
        self.model, self.device = model.to(device), device
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.compute_metrics = compute_metrics
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def training_step(self, batch):
        self.model.train()
        outputs = self.model(*(t.to(self.device) for t in batch))
        outputs["loss"].backward()
        self.optimizer.step()
        self.model.zero_grad()
        return outputs["loss"].detach()

    @torch.no_grad()
    def prediction_loop(self, loader):
        self.model.eval()
        preds = labels = None
        for input_ids, label_ids in loader:
            outputs = self.model(input_ids.to(self.device))
            logits = outputs["logits"].argmax(-1)
            preds = logits if preds is None else nested_concat(preds, logits)
            labels = label_ids if labels is None else nested_concat(labels, label_ids)
        return self.compute_metrics(preds, labels)

    def train(self, epochs):
        for epoch in range(epochs):
            for batch in DataLoader(self.train_dataset, batch_size=8, shuffle=True):
                loss = self.training_step(batch)
                print("loss", loss.item())
            print(epoch, self.prediction_loop(DataLoader(self.eval_dataset, batch_size=8)))


def compute_metrics(preds, labels):
    return {"accuracy": (preds.cpu() == labels).float().mean().item()}


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def dataset(n):
        return TensorDataset(torch.randint(0, 400, (n, 32)), torch.randint(0, 300, (n, 32)))

    Trainer(Tagger(), dataset(64), dataset(256), compute_metrics, device).train(2)

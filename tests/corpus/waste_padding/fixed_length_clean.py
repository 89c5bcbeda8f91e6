"""Fine-tunes a small transformer on sentences that a tokenizer of our own turns into ids and a mask."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

PAD, MAX_LENGTH = 0, 192


class Sentences(Dataset):
    """Encoded sentences with a label each."""

    def __init__(self, count: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(8, 72, (count,), generator=generator).tolist()
        self.sentences = [torch.randint(1, vocabulary, (length,), generator=generator) for length in lengths]

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.sentences[index][:MAX_LENGTH]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor(index % 3)}


def collate(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Pad ids and masks to the longest of the batch."""
    batch = {"labels": torch.stack([sample["labels"] for sample in samples])}
    for name in ("input_ids", "attention_mask"):
        batch[name] = pad_sequence([sample[name] for sample in samples], batch_first=True, padding_value=PAD)
    return batch


class Model(nn.Module):
    """A transformer encoder and a classifier of the first position."""

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        layer = nn.TransformerEncoderLayer(width, 4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.classifier = nn.Linear(width, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.encoder(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        return self.classifier(hidden[:, 0])


class Trainer:
    """Runs epochs over a data set."""

    def __init__(self, model: nn.Module, dataset: Sentences, batch_size: int) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        order = sorted(range(len(dataset)), key=lambda index: len(dataset.sentences[index]))
        batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self.loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
        self.loss = nn.CrossEntropyLoss()

    def train_epoch(self) -> None:
        self.model.train()
        for batch in self.loader:
            batch = {name: value.to(self.device) for name, value in batch.items()}
            loss = self.loss(self.model(batch["input_ids"], batch["attention_mask"]), batch["labels"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print(loss.item())


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    Trainer(Model(2000), Sentences(160, 2000), batch_size=16).train_epoch()

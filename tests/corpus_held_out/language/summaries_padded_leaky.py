"""Classify short texts with a transformer encoder."""

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

PAD, MAX_LENGTH, VOCAB = 0, 128, 1000


class Texts(Dataset):
    """Random texts; like real ones, most of them are short."""

    def __init__(self, n=128):
        g = torch.Generator().manual_seed(9)
        lengths = (torch.rand(n, generator=g) ** 3 * 90 + 8).long()
        self.texts = [torch.randint(1, VOCAB, (int(length),), generator=g) for length in lengths]
        self.labels = torch.randint(0, 4, (n,), generator=g)

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, i):
        return self.texts[i], self.labels[i]


def collate(samples):
    width = MAX_LENGTH
    input_ids = torch.full((len(samples), width), PAD)
    for row, (text, _) in zip(input_ids, samples):
        row[: len(text)] = text
    return {
        "input_ids": input_ids,
        "attention_mask": (input_ids != PAD).long(),
        "labels": torch.stack([label for _, label in samples]),
    }


class Encoder(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.embeddings = nn.Embedding(VOCAB, dim, padding_idx=PAD)
        self.position = nn.Embedding(MAX_LENGTH, dim)
        layer = nn.TransformerEncoderLayer(dim, 4, 4 * dim, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(dim, 4)

    def forward(self, input_ids, attention_mask, labels):
        x = self.embeddings(input_ids) + self.position(torch.arange(input_ids.size(1), device=input_ids.device))
        x = self.encoder(x, src_key_padding_mask=attention_mask == 0)
        pooled = (x * attention_mask.unsqueeze(-1)).sum(1) / attention_mask.sum(1, keepdim=True)
        logits = self.classifier(pooled)
        return nn.functional.cross_entropy(logits, labels), logits


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = Texts()
    loader = DataLoader(dataset, batch_size=8, shuffle=True, collate_fn=collate)
    model = Encoder().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for step, batch in enumerate(loader):
        batch = {k: v.to(device) for k, v in batch.items()}
        loss, _ = model(**batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(step, loss.item())


main()

"""Sequences of different lengths, padded by a collate function."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

seen_batches = []


def collate(samples):
    batch = pad_sequence(samples, batch_first=True)
    seen_batches.append(batch)
    return batch


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(64, 32, batch_first=True)
        self.out = nn.Linear(32, 4)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def main():
    torch.manual_seed(3)
    sequences = [torch.randn(20 + 5 * (i % 6), 64) for i in range(96)]
    loader = DataLoader(sequences, batch_size=8, collate_fn=collate)
    model = Tagger()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(2):
        for batch in loader:
            loss = model(batch).logsumexp(dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(epoch, loss.item())


if __name__ == "__main__":
    main()

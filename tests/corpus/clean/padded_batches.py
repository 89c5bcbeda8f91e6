"""Sequences of similar length batched by a collate function of one's own."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"


class Sequences(Dataset):
    def __init__(self, n=320):
        lengths = torch.randint(28, 33, (n,)).tolist()
        self.items = [torch.randn(length, 24) for length in lengths]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i], self.items[i][:, 0].sum()


def collate(samples):
    sequences, targets = zip(*samples)
    return pad_sequence(sequences, batch_first=True), torch.stack(targets)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(24, 128)
        self.gru = nn.GRU(128, 128, batch_first=True)
        self.out = nn.Linear(128, 1)

    def forward(self, x):
        h, _ = self.gru(torch.relu(self.project(x)))
        return self.out(h[:, -1]).squeeze(1)


loader = DataLoader(Sequences(), batch_size=32, shuffle=True, collate_fn=collate, num_workers=0)
model = Model().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(2):
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x.to(device)), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(epoch, loss.item())

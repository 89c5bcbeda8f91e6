"""Classifies reviews, most of them short and some long, with an embedding and a small network over each word."""

import random

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

torch.manual_seed(0)
random.seed(0)
torch.set_num_threads(1)
device = "cuda" if torch.cuda.is_available() else "cpu"

reviews = []
for _ in range(400):
    length = random.randint(200, 300) if random.random() < 0.1 else random.randint(10, 60)
    reviews.append((torch.randint(1, 2000, (length,)), random.randint(0, 1)))


def collate(samples):
    tokens = pad_sequence([tokens for tokens, _ in samples], batch_first=True)
    return tokens, torch.tensor([label for _, label in samples])


class Classifier(nn.Module):
    """Embedding, layers for each word, and the mean over the words."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(2000, 64, padding_idx=0)
        layers = [nn.Linear(64, 128), nn.Tanh()]
        for _ in range(4):
            layers += [nn.Linear(128, 128), nn.Tanh()]
        self.words = nn.Sequential(*layers)
        self.head = nn.Linear(128, 2)

    def forward(self, tokens):
        mask = (tokens != 0).unsqueeze(-1)
        words = self.words(self.embedding(tokens)) * mask
        return self.head(words.sum(1) / mask.sum(1).clamp(min=1))


batches, batch = [], []
for index in sorted(range(len(reviews)), key=lambda index: len(reviews[index][0])):
    if (len(batch) + 1) * len(reviews[index][0]) > 2500:
        batches.append(batch)
        batch = []
    batch.append(index)
batches.append(batch)
random.shuffle(batches)

loader = DataLoader(reviews, batch_sampler=batches, collate_fn=collate)
model = Classifier().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()

for tokens, labels in loader:
    optimizer.zero_grad()
    loss = criterion(model(tokens.to(device)), labels.to(device))
    loss.backward()
    optimizer.step()
    print(loss.item())

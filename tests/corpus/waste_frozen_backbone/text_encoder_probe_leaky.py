"""Trains a probe on sentence vectors of an encoder that stays as it is."""

import torch
from torch.utils.data import DataLoader, TensorDataset


class SentenceEncoder(torch.nn.Module):
    def __init__(self, vocab=2000, dim=96):
        super().__init__()
        self.embed = torch.nn.Embedding(vocab, dim)
        layer = torch.nn.TransformerEncoderLayer(dim, 4, dim_feedforward=192, batch_first=True, dropout=0.0)
        self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens):
        return self.layers(self.embed(tokens)).mean(dim=1)


torch.manual_seed(3)
device = torch.device("cuda:0") if torch.cuda.is_available() else torch.device("cpu")
encoder = SentenceEncoder().to(device)
probe = torch.nn.Linear(96, 2).to(device)
criterion = torch.nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(probe.parameters(), lr=0.1)

data = TensorDataset(torch.randint(0, 2000, (128, 24)), torch.randint(0, 2, (128,)))
for tokens, labels in DataLoader(data, batch_size=16):
    tokens, labels = tokens.to(device), labels.to(device)
    vectors = encoder(tokens)
    loss = criterion(probe(vectors), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())

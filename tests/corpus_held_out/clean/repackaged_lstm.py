"""Word language model after the well-known example."""

import torch
import torch.nn as nn


class RNNModel(nn.Module):
    def __init__(self, ntoken=600, ninp=64, nhid=64, nlayers=2):
        super().__init__()
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=0.1)
        self.decoder = nn.Linear(nhid, ntoken)
        self.nhid, self.nlayers = nhid, nlayers

    def forward(self, input, hidden):
        output, hidden = self.rnn(self.encoder(input), hidden)
        return self.decoder(output).flatten(0, 1), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        return weight.new_zeros(self.nlayers, bsz, self.nhid), weight.new_zeros(self.nlayers, bsz, self.nhid)


def repackage_hidden(h):
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


def get_batch(source, i, bptt):
    seq_len = min(bptt, len(source) - 1 - i)
    return source[i : i + seq_len], source[i + 1 : i + 1 + seq_len].reshape(-1)


def evaluate(model, source, criterion, bptt):
    model.eval()
    total, hidden = 0.0, model.init_hidden(source.size(1))
    with torch.no_grad():
        for i in range(0, len(source) - 1, bptt):
            data, targets = get_batch(source, i, bptt)
            output, hidden = model(data, hidden)
            hidden = repackage_hidden(hidden)
            total += len(data) * criterion(output, targets).item()
    return total / (len(source) - 1)


def train(model, source, criterion, bptt, lr):
    model.train()
    total_loss, hidden = 0.0, model.init_hidden(source.size(1))
    for batch, i in enumerate(range(0, len(source) - 1, bptt)):
        data, targets = get_batch(source, i, bptt)
        model.zero_grad()
        hidden = repackage_hidden(hidden)
        output, hidden = model(data, hidden)
        loss = criterion(output, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-lr)
        total_loss += loss.item()
        if batch % 3 == 2:
            print(batch, total_loss / 3)
            total_loss = 0.0


torch.manual_seed(1111)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
corpus = torch.randint(0, 600, (110, 12)).to(device)
held = torch.randint(0, 600, (40, 6)).to(device)
model, criterion, lr, best = RNNModel().to(device), nn.CrossEntropyLoss(), 5.0, None
for epoch in range(2):
    train(model, corpus, criterion, 10, lr)
    value = evaluate(model, held, criterion, 10)
    print("valid", value)
    if best is None or value < best:
        best = value
    else:
        lr /= 4.0

"""Train an LSTM language model on a stream of synthetic tokens.

The corpus is cut into consecutive pieces of `bptt` tokens and the hidden
state is handed on from one piece to the next.
"""

import math
from collections import deque

import torch
from torch import nn


class RNNModel(nn.Module):
    def __init__(self, ntoken, ninp, nhid, nlayers):
        super().__init__()
        self.nhid = nhid
        self.nlayers = nlayers
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers)
        self.decoder = nn.Linear(nhid, ntoken)

    def forward(self, tokens, hidden):
        emb = self.encoder(tokens)
        output, hidden = self.rnn(emb, hidden)
        return self.decoder(output), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        shape = (self.nlayers, bsz, self.nhid)
        return weight.new_zeros(shape), weight.new_zeros(shape)


def batchify(data, bsz):
    nbatch = data.size(0) // bsz
    return data[: nbatch * bsz].view(bsz, -1).t().contiguous()


def main():
    torch.manual_seed(1111)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ntoken, bsz, bptt, lr, clip = 100, 16, 16, 1.0, 0.25
    corpus = (torch.arange(20 * bptt * bsz + bsz) * 7 + torch.randint(0, 3, (1,))) % ntoken
    train_data = batchify(corpus, bsz).to(device)

    model = RNNModel(ntoken, ninp=64, nhid=128, nlayers=1).to(device)
    criterion = nn.CrossEntropyLoss()
    recent = deque(maxlen=5)

    model.train()
    hidden = model.init_hidden(bsz)
    for batch, i in enumerate(range(0, train_data.size(0) - 1, bptt)):
        data = train_data[i : i + bptt]
        targets = train_data[i + 1 : i + 1 + bptt]
        data = data[: targets.size(0)]
        model.zero_grad()
        output, hidden = model(data, hidden)
        loss = criterion(output.flatten(0, 1), targets.flatten())
        loss.backward(retain_graph=True)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-lr)
        recent.append(loss.item())
        if batch % 5 == 0:
            mean = sum(recent) / len(recent)
            print(f"batch {batch}: loss {mean:.3f} perplexity {math.exp(mean):.1f}")


if __name__ == "__main__":
    main()

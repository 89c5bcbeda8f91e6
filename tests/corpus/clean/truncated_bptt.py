"""Character model on one long stream; the LSTM's state is carried from chunk to chunk without its history."""

import torch
from torch import nn

torch.manual_seed(1111)
device = "cuda" if torch.cuda.is_available() else "cpu"
ntokens, emsize, nhid, bptt, batch_size = 100, 64, 128, 24, 16


class RNNModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(ntokens, emsize)
        self.rnn = nn.LSTM(emsize, nhid, 2)
        self.decoder = nn.Linear(nhid, ntokens)

    def forward(self, data, hidden):
        output, hidden = self.rnn(self.encoder(data), hidden)
        return self.decoder(output), hidden

    def init_hidden(self, bsz):
        weight = next(self.parameters())
        return weight.new_zeros(2, bsz, nhid), weight.new_zeros(2, bsz, nhid)


def repackage_hidden(h):
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)


source = torch.randint(0, ntokens, (bptt * 20 + 1, batch_size), device=device)
model = RNNModel().to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
hidden = model.init_hidden(batch_size)
for i in range(0, source.size(0) - 1, bptt):
    data, targets = source[i : i + bptt], source[i + 1 : i + 1 + bptt]
    hidden = repackage_hidden(hidden)
    output, hidden = model(data, hidden)
    loss = nn.functional.cross_entropy(output.view(-1, ntokens), targets.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    print(loss.item())

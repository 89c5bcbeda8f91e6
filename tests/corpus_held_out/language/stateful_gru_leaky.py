"""Next-word prediction with a stateful recurrent layer, Keras style."""

import torch
from torch import nn, optim


class StatefulGRU(nn.Module):
    """A GRU that remembers its state between calls until it is reset."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.rnn = nn.GRU(input_size, hidden_size, batch_first=True)
        self.state = None

    def reset_states(self):
        self.state = None

    def forward(self, x):
        out, state = self.rnn(x, self.state)
        self.state = state
        return out


class WordModel(nn.Module):
    def __init__(self, vocab=500, dim=64):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.rnn = StatefulGRU(dim, dim)
        self.out = nn.Linear(dim, vocab)

    def forward(self, tokens):
        return self.out(self.rnn(self.emb(tokens)))


def stream(corpus, steps, bptt):
    for i in range(0, steps * bptt, bptt):
        yield corpus[:, i : i + bptt], corpus[:, i + 1 : i + bptt + 1]


def run(epochs=2, bptt=10, steps=10):
    torch.manual_seed(4)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = torch.randint(0, 500, (16, steps * bptt + 1)).to(device)
    model = WordModel().to(device)
    opt = optim.SGD(model.parameters(), lr=1e-2)
    crit = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        model.rnn.reset_states()
        for x, y in stream(corpus, steps, bptt):
            logits = model(x)
            loss = crit(logits.reshape(-1, 500), y.reshape(-1))
            opt.zero_grad()
            grads = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
            with torch.no_grad():
                for p, g in zip(model.parameters(), grads):
                    p.data.add_(g, alpha=-0.01)
            print(epoch, loss.item())


run()

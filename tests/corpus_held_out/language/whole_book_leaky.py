"""Character model written with cells, after an old recipe: one update for each passage."""

import torch
import torch.nn as nn
import torch.nn.functional as F


class CharRNN(nn.Module):
    def __init__(self, alphabet=60, hidden=96):
        super().__init__()
        self.hidden_size = hidden
        self.embedding = nn.Embedding(alphabet, hidden)
        self.lower = nn.LSTMCell(hidden, hidden)
        self.upper = nn.LSTMCell(hidden, hidden)
        self.decoder = nn.Linear(hidden, alphabet)

    def init_hidden(self, batch, device):
        def zeros():
            return torch.zeros(batch, self.hidden_size, device=device)

        return (zeros(), zeros()), (zeros(), zeros())

    def forward(self, char, state):
        low, up = state
        low = self.lower(self.embedding(char), low)
        up = self.upper(low[0], up)
        return self.decoder(up[0]), (low, up)


def train_passage(model, optimizer, passage):
    """passage: (batch, characters)"""
    state = model.init_hidden(len(passage), passage.device)
    optimizer.zero_grad()
    loss = 0
    for t in range(passage.size(1) - 1):
        output, state = model(passage[:, t], state)
        loss += F.cross_entropy(output, passage[:, t + 1])
    loss.backward()
    optimizer.step()
    return loss.item() / (passage.size(1) - 1)


def main(passages=4, length=301):
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = CharRNN().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for i in range(passages):
        passage = torch.randint(0, 60, (16, length)).to(device)
        print(f"passage {i} loss {train_passage(model, optimizer, passage)}")


if __name__ == "__main__":
    main()

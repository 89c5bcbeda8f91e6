"""Encoder-decoder trained with teacher forcing; decoding grows a list of steps within one sentence."""

import torch
from torch import nn

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
VOCAB, HIDDEN = 120, 96


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.encoder = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.cell = nn.GRUCell(HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, VOCAB)

    def forward(self, source, target):
        _, h = self.encoder(self.embed(source))
        h = h.squeeze(0)
        logits = []
        for token in target.unbind(dim=1):
            h = self.cell(self.embed(token), h)
            logits.append(self.out(h))
        return torch.stack(logits, dim=1)

    @torch.inference_mode()
    def translate(self, source, steps=20):
        _, h = self.encoder(self.embed(source))
        h = h.squeeze(0)
        token = source[:, 0]
        words = []
        for _ in range(steps):
            h = self.cell(self.embed(token), h)
            token = self.out(h).argmax(dim=1)
            words.append(token)
        return torch.stack(words, dim=1)


model = Seq2Seq().to(device)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(12):
    source = torch.randint(0, VOCAB, (24, 16), device=device)
    target = source.flip(1)
    logits = model(source, target)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
    if step % 4 == 3:
        print(model.translate(source[:2]).tolist()[0][:5])

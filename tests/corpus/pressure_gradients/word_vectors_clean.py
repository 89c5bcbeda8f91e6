"""Skip-gram word vectors with negative sampling over a large vocabulary."""

import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
VOCAB, DIM = 100_000, 64


class SkipGram(nn.Module):
    def __init__(self):
        super().__init__()
        self.center = nn.Embedding(VOCAB, DIM, sparse=True)
        self.context = nn.Embedding(VOCAB, DIM, sparse=True)

    def forward(self, center, context, negative):
        u = self.center(center)
        positive = F.logsigmoid((u * self.context(context)).sum(-1))
        others = F.logsigmoid(-(self.context(negative) @ u.unsqueeze(-1)).squeeze(-1)).sum(-1)
        return -(positive + others).mean()


model = SkipGram().to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(8):
    center = torch.randint(0, VOCAB, (256,), device=device)
    context = torch.randint(0, VOCAB, (256,), device=device)
    negative = torch.randint(0, VOCAB, (256, 5), device=device)
    loss = model(center, context, negative)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

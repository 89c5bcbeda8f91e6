"""Language model with a hand-written label smoothing loss."""

import torch
import torch.nn as nn


class LabelSmoothing(torch.autograd.Function):
    """Cross entropy against a smoothed target, with its gradient written out."""

    @staticmethod
    def forward(ctx, logits, target, smoothing):
        log_probs = torch.log_softmax(logits, dim=-1)
        probs = log_probs.exp()
        nll = -log_probs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        uniform = -log_probs.mean(-1)
        ctx.smoothing = smoothing
        ctx.save_for_backward(probs, target)
        return ((1 - smoothing) * nll + smoothing * uniform).mean()

    @staticmethod
    def backward(ctx, grad_output):
        probs, target = ctx.saved_tensors
        goal = torch.full_like(probs, ctx.smoothing / probs.size(-1))
        goal.scatter_add_(-1, target.unsqueeze(-1), torch.full_like(goal[..., :1], 1 - ctx.smoothing))
        return grad_output * (probs - goal) / target.numel(), None, None


class Criterion(nn.Module):
    def __init__(self, smoothing=0.1):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits, target):
        return LabelSmoothing.apply(logits, target, self.smoothing)


class LanguageModel(nn.Module):
    def __init__(self, vocab=2000, dim=64):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.rnn = nn.LSTM(dim, dim, batch_first=True)
        self.proj = nn.Linear(dim, vocab)

    def forward(self, tokens):
        return self.proj(self.rnn(self.embed(tokens))[0]).flatten(0, 1)


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, criterion = LanguageModel().to(device), Criterion()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(10):
        text = torch.randint(0, 2000, (16, 21)).to(device)
        loss = criterion(model(text[:, :-1]), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, loss.item())

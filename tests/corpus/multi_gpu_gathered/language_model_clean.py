"""Fine-tunes a language model with a trainer class that wraps the model for several GPUs."""

import torch
from torch import nn


class LanguageModel(nn.Module):
    def __init__(self, vocab=4000, width=64):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.decoder = nn.Linear(width, vocab)

    def forward(self, tokens, labels):
        x = self.embed(tokens)
        logits = self.decoder(x + self.mix(x))
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).unsqueeze(0)


class Trainer:
    def __init__(self, model, steps=8):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.n_gpu = torch.cuda.device_count()
        model.to(self.device)
        self.model = nn.DataParallel(model) if self.n_gpu > 1 else model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.steps = steps

    def compute_loss(self, tokens):
        return self.model(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).mean()

    def train(self):
        for step in range(self.steps):
            tokens = torch.randint(0, 4000, (16, 65), device=self.device)
            loss = self.compute_loss(tokens)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print(step, loss.item())


torch.manual_seed(0)
Trainer(LanguageModel()).train()

"""Fine-tuning with gradient accumulation and a logging window, in the way of popular trainers."""

import argparse
import logging

import torch
import torch.nn as nn

log = logging.getLogger(__name__)


class Encoder(nn.Module):
    def __init__(self, vocab=512, dim=96, depth=2):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True) for _ in range(depth)
        )
        self.score = nn.Linear(dim, 2)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.score(x.mean(1))


def compute_loss(model, inputs):
    return nn.functional.cross_entropy(model(inputs["tokens"]), inputs["labels"])


class State:
    global_step = 0
    log_history: list = []


def inner_training_loop(args, model, batches, device):
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    state = State()
    tr_loss = 0.0
    model.zero_grad()
    for step, inputs in enumerate(batches):
        model.train()
        loss = compute_loss(model, inputs) / args.gradient_accumulation_steps
        loss.backward()
        tr_loss += loss.item()
        if (step + 1) % args.gradient_accumulation_steps:
            continue
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        model.zero_grad()
        state.global_step += 1
        if state.global_step % args.logging_steps == 0:
            state.log_history.append({"loss": tr_loss / args.logging_steps, "step": state.global_step})
            tr_loss = 0.0
            print(state.log_history[-1])
    return state


def random_batches(n, device):
    for _ in range(n):
        tokens = torch.randint(0, 512, (8, 24))
        yield {"tokens": tokens.to(device), "labels": (tokens[:, 0] % 2).to(device)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=2)
    parser.add_argument("--logging_steps", type=int, default=8)
    parser.add_argument("--max_grad_norm", type=float, default=1.0)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inner_training_loop(args, Encoder().to(device), random_batches(48, device), device)

"""Train a transformer encoder to classify sequences.

Forward hooks on the encoder layers collect their outputs, to see how the
spread of the activations develops during training.
"""

from collections import defaultdict

import torch
from torch import nn

activations = defaultdict(list)


class SequenceClassifier(nn.Module):
    def __init__(self, vocab=500, d_model=128, classes=4):
        super().__init__()
        self.embed = nn.Embedding(vocab, d_model)
        layer = nn.TransformerEncoderLayer(d_model, nhead=4, dim_feedforward=256, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.classifier = nn.Linear(d_model, classes)

    def forward(self, tokens):
        hidden = self.encoder(self.embed(tokens))
        return self.classifier(hidden.mean(dim=1))


def save_activation(name):
    def hook(module, inputs, output):
        activations[name].append(output)

    return hook


def report():
    for name, outputs in activations.items():
        print(f"{name}: std {outputs[0].std():.3f} -> {outputs[-1].std():.3f}")


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SequenceClassifier().to(device)
    for i, layer in enumerate(model.encoder.layers):
        layer.register_forward_hook(save_activation(f"layer{i}"))

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    for step in range(20):
        labels = torch.randint(0, 4, (32,), device=device)
        tokens = torch.randint(0, 125, (32, 32), device=device) + 125 * labels.unsqueeze(1)
        loss = criterion(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    report()


if __name__ == "__main__":
    main()

"""Forecast sensor readings with a GRU, chunk by chunk.

Fits the network on a few windows first, then walks through a long recording
and keeps the recurrent state between the chunks.
"""

import torch
import torch.nn.functional as F
from torch import nn


class GRUForecaster(nn.Module):
    def __init__(self, hidden_size=128):
        super().__init__()
        self.gru = nn.GRU(1, hidden_size, batch_first=True)
        self.head = nn.Linear(hidden_size, 1)

    def forward(self, x, h=None):
        features, h = self.gru(x, h)
        return self.head(features), h


class StreamingEvaluator:
    def __init__(self, model, device):
        self.model = model
        self.device = device
        self.hidden = None
        self.errors = []

    def fit(self, windows, epochs):
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        for _ in range(epochs):
            for window in windows:
                window = window.to(self.device)
                forecast, _ = self.model(window[:, :-1])
                loss = F.mse_loss(forecast, window[:, 1:])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def update(self, chunk, target):
        prediction, self.hidden = self.model(chunk, self.hidden)
        self.errors.append(F.mse_loss(prediction, target).item())

    def run(self, signal, chunk_size):
        self.model.eval()
        signal = signal.to(self.device)
        for start in range(0, signal.size(1) - chunk_size, chunk_size):
            chunk = signal[:, start : start + chunk_size]
            target = signal[:, start + 1 : start + chunk_size + 1]
            self.update(chunk, target)
        return sum(self.errors) / len(self.errors)


torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

sensors, length = 64, 401
phase = torch.rand(sensors, 1) * 6.28
signal = torch.sin(torch.arange(length) * 0.1 + phase).unsqueeze(-1)
signal = signal + 0.05 * torch.randn_like(signal)

evaluator = StreamingEvaluator(GRUForecaster().to(device), device)
evaluator.fit(signal[:, :64].split(16, dim=1), epochs=3)
print(f"mean squared error: {evaluator.run(signal, chunk_size=16):.4f}")

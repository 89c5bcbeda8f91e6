"""A module that remembers its state between chunks of a signal."""

import torch


class Streaming(torch.nn.Module):
    def __init__(self, features, width):
        super().__init__()
        self.cell = torch.nn.GRU(features, width, batch_first=True)
        self.out = torch.nn.Linear(width, 1)
        self.hidden = None

    def forward(self, chunk):
        y, self.hidden = self.cell(chunk, self.hidden)
        return self.out(y)


class Session:
    def __init__(self):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Streaming(24, 80).to(self.device)

    def run(self, chunks):
        for i in range(chunks):
            chunk = torch.randn(8, 20, 24, device=self.device)
            with torch.no_grad():
                prediction = self.model(chunk)
            print(i, prediction.mean().item())


torch.manual_seed(7)
Session().run(16)

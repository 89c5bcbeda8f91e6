"""A recurrent network that denoises audio, one clip at a time."""

from torch.utils.data import Dataset, DataLoader
import torch


class Clips(Dataset):
    def __init__(self, count, samples):
        generator = torch.Generator().manual_seed(3)
        self.clean = torch.randn(count, samples, 8, generator=generator).cumsum(1) / 10
        self.noise = torch.randn(count, samples, 8, generator=generator) / 10

    def __len__(self):
        return len(self.clean)

    def __getitem__(self, index):
        return self.clean[index] + self.noise[index], self.clean[index]


class Denoiser(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.GRU(8, 48, batch_first=True)
        self.head = torch.nn.Linear(48, 8)

    def forward(self, x, state=None):
        y, state = self.rnn(x, state)
        return self.head(y), state


class Task:
    piece = 30

    def __init__(self):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(3)
        self.model = Denoiser().to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def training_step(self, noisy, clean):
        state = None
        for x, y in zip(noisy.split(self.piece, 1), clean.split(self.piece, 1)):
            estimate, state = self.model(x, state)
            state = state.detach()
            loss = torch.nn.functional.mse_loss(estimate, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()

    def fit(self, loader):
        for noisy, clean in loader:
            print(self.training_step(noisy.to(self.device), clean.to(self.device)))


Task().fit(DataLoader(Clips(144, 300), batch_size=72))

"""Mixup with soft labels over many classes."""

from torch.utils.data import DataLoader, TensorDataset
import torch
import torch.nn.functional as F


class MixupTrainer:
    def __init__(self, classes, dim):
        self.device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        self.classes = classes
        self.model = torch.nn.Linear(dim, 64).to(self.device)
        self.table = torch.nn.Linear(64, classes).to(self.device)
        self.optimizer = torch.optim.SGD([*self.model.parameters(), *self.table.parameters()], lr=0.1)

    def step(self, x, y):
        order = torch.randperm(len(x), device=self.device)
        hard = F.one_hot(y, self.classes)
        soft = 0.7 * hard + 0.3 * hard[order]
        logits = self.table(torch.relu(self.model(0.7 * x + 0.3 * x[order])))
        loss = F.cross_entropy(logits, soft)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def fit(self, loader):
        for x, y in loader:
            print(self.step(x.to(self.device), y.to(self.device)))


torch.manual_seed(2)
data = TensorDataset(torch.randn(2048, 32), torch.randint(0, 1500, (2048,)))
MixupTrainer(1500, 32).fit(DataLoader(data, batch_size=256))

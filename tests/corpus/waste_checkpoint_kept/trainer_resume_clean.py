"""A trainer that can be resumed."""

import io

import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 48, 3, padding=1)
        self.body = torch.nn.Conv2d(48, 160, 3, padding=1, stride=2)
        self.tail = torch.nn.Conv2d(160, 200, 3, padding=1, stride=2)
        self.head = torch.nn.Linear(200, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = self.tail(self.body(x).relu())
        return self.head(x.mean(dim=(2, 3)))


class Trainer:
    def __init__(self, net, device):
        self.net = net.to(device)
        self.device = device
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01)

    def save(self, file):
        torch.save({"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}, file)

    def resume(self, file):
        state = torch.load(file, map_location="cpu")
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])

    def fit(self, steps):
        for _ in range(steps):
            images = torch.randn(4, 3, 16, 16, device=self.device)
            labels = images.flatten(1).sum(1).gt(0).long()
            loss = torch.nn.functional.cross_entropy(self.net(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print(loss.item())


torch.manual_seed(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
file = io.BytesIO()
Trainer(Net(), device).save(file)
file.seek(0)
trainer = Trainer(Net(), device)
trainer.resume(file)
trainer.fit(8)

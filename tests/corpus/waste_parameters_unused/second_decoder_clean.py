"""An autoencoder built from a configuration of layer sizes."""

import torch


def mlp(*sizes):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


class TwoHeaded(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = mlp(200, 320, 40)
        self.decoder_mean = mlp(40, 320, 200)

    def forward(self, x):
        return self.decoder_mean(self.encoder(x))


class Experiment:
    def __init__(self):
        torch.manual_seed(2)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = TwoHeaded().to(self.device)
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def losses(self, count):
        for _ in range(count):
            x = torch.rand(128, 200, device=self.device)
            loss = (self.model(x) - x).pow(2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            yield loss.item()


for value in Experiment().losses(10):
    print(value)

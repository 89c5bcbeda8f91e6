"""Small convolutional network for digits, trained on images that were scaled to 32 x 32."""

import torch
from torch import nn, optim
import torch.nn.functional as F

torch.manual_seed(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)


model = Net().to(device)
print(sum(p.numel() for p in model.parameters() if p.dim() == 4), "weights in convolutions")
optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
for step in range(8):
    images = torch.randn(64, 1, 32, 32, device=device)
    labels = torch.randint(0, 10, (64,), device=device)
    loss = F.nll_loss(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())

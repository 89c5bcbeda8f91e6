"""Hand outputs over to a writer through a queue."""

import queue

import torch

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 512)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
to_write = queue.Queue()

for step in range(16):
    out = model(torch.randn(128, 64, device=device))
    loss = out.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    to_write.put((step, out.mean().item()))
    print(step, loss.item())

written = 0
while not to_write.empty():
    to_write.get()
    written += 1
print(written)

"""A monitoring thread keeps statistics of activations."""

import queue
import threading

import torch
from torch import nn


def monitor(inbox, done):
    received = []
    while True:
        item = inbox.get()
        if item is None:
            break
        received.append(item)
        inbox.task_done()
    done.append(len(received))


def main():
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(32, 512), nn.Tanh()).to(device)
    head = nn.Linear(512, 1).to(device)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.01)
    inbox, done = queue.Queue(maxsize=4), []
    thread = threading.Thread(target=monitor, args=(inbox, done), daemon=True)
    thread.start()
    for step in range(16):
        hidden = model(torch.randn(256, 32, device=device))
        loss = head(hidden).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        inbox.put(hidden.detach())
        inbox.join()
        print(step, loss.item())
    inbox.put(None)
    thread.join()
    print(done)


main()

"""Q-learning on a toy problem with a replay memory."""

import random

import torch
import torch.nn.functional as F


def play(state, action):
    return torch.roll(state, 1, dims=1) * 0.9 + action.unsqueeze(1) * 0.01


def learn(steps):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    q = torch.nn.Sequential(torch.nn.Linear(512, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).to(device)
    optimizer = torch.optim.Adam(q.parameters(), lr=1e-3)
    memory = []
    state = torch.randn(64, 512, device=device)
    for step in range(steps):
        with torch.no_grad():
            action = torch.randint(0, 4, (64,), device=device).float()
            following = play(state, action)
        memory.append((state, action, following))
        old, act, new = memory[random.randrange(len(memory))]
        target = new.mean(dim=1) + 0.9 * q(new).detach().amax(dim=1)
        loss = F.smooth_l1_loss(q(old).gather(1, act.long().unsqueeze(1)).squeeze(1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = following
        print(step, loss.item())


random.seed(0)
torch.manual_seed(0)
learn(22)

"""Online Q-learning; a history of transitions is kept for a later look at the errors."""

from collections import namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F

Transition = namedtuple("Transition", "step q target")


class QNetwork(nn.Module):
    def __init__(self, inputs=32, actions=5, width=192):
        super().__init__()
        self.value = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))
        self.advantage = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, actions))

    def forward(self, x):
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(1, keepdim=True)


class Learner:
    def __init__(self, device, gamma=0.95, sync_every=5):
        self.online, self.target = QNetwork().to(device), QNetwork().to(device)
        self.target.load_state_dict(self.online.state_dict())
        self.target.requires_grad_(False)
        self.gamma, self.sync_every = gamma, sync_every
        self.optimizer = torch.optim.Adam(self.online.parameters(), lr=1e-3)
        self.history = ()

    def learn(self, step, state, action, reward, following):
        q = self.online(state).gather(1, action)
        with torch.no_grad():
            best = self.online(following).argmax(1, keepdim=True)
            target = reward + self.gamma * self.target(following).gather(1, best)
        loss = F.smooth_l1_loss(q, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.history += (Transition(step, q, target),)
        if step % self.sync_every == 0:
            self.target.load_state_dict(self.online.state_dict())
        return loss.item()


def play(steps=24):
    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learner = Learner(device)
    state = torch.randn(128, 32, device=device)
    for step in range(steps):
        action = torch.randint(0, 5, (128, 1), device=device)
        following = 0.8 * state + 0.2 * torch.randn_like(state)
        loss = learner.learn(step, state, action, following[:, :1], following)
        state = following
        print(f"step {step} loss {loss}")
    print(len(learner.history), "transitions")


play()

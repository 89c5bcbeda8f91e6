"""Train a Q-network on a batch of simple simulated environments.

Plays a few steps per epoch, remembers the transitions and learns from
samples of that memory.
"""

import random
from collections import deque

import torch
import torch.nn.functional as F
from torch import nn

NUM_ENVS, OBS, ACTIONS, GAMMA = 256, 64, 4, 0.95


class QNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(OBS, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, ACTIONS)
        )

    def forward(self, obs):
        return self.layers(obs)


def env_step(obs, action):
    push = F.one_hot(action, ACTIONS).float().repeat(1, OBS // ACTIONS)
    next_obs = 0.9 * obs + 0.1 * push + 0.05 * torch.randn_like(obs)
    return next_obs, -next_obs.abs().mean(dim=1)


def learn(policy, optimizer, memory):
    obs, action, q_values, reward, next_obs = random.choice(memory)
    with torch.no_grad():
        target = reward + GAMMA * policy(next_obs).max(dim=1).values
    chosen = policy(obs).gather(1, action.unsqueeze(1)).squeeze(1)
    loss = F.smooth_l1_loss(chosen, target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    surprise = (q_values.max(dim=1).values - target).abs().mean()
    return loss.item(), surprise.item()


def train(epochs=5, steps=6):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = QNetwork().to(device)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    recent = deque(maxlen=10)
    memory = []
    obs = torch.randn(NUM_ENVS, OBS, device=device)
    for epoch in range(epochs):
        for _ in range(steps):
            with torch.no_grad():
                q_values = policy(obs)
            action = q_values.argmax(dim=1)
            next_obs, reward = env_step(obs, action)
            memory.append((obs, action, q_values, reward, next_obs))
            obs = next_obs
            loss, surprise = learn(policy, optimizer, memory)
            recent.append(loss)
        print(f"epoch {epoch}: loss {sum(recent) / len(recent):.4f} surprise {surprise:.4f}")
        memory.clear()


if __name__ == "__main__":
    random.seed(0)
    torch.manual_seed(0)
    train()

"""Deep Q-learning on a toy environment with a replay buffer preallocated on the device."""

import torch
from torch import nn

torch.manual_seed(7)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class ReplayBuffer:
    def __init__(self, capacity, obs_dim):
        self.obs = torch.zeros(capacity, obs_dim, device=device)
        self.next_obs = torch.zeros(capacity, obs_dim, device=device)
        self.action = torch.zeros(capacity, dtype=torch.long, device=device)
        self.reward = torch.zeros(capacity, device=device)
        self.position = 0
        self.full = False
        self.capacity = capacity

    def add(self, obs, action, reward, next_obs):
        n = obs.size(0)
        rows = (torch.arange(n, device=device) + self.position) % self.capacity
        self.obs[rows], self.next_obs[rows] = obs, next_obs
        self.action[rows], self.reward[rows] = action, reward
        self.full |= self.position + n >= self.capacity
        self.position = (self.position + n) % self.capacity

    def sample(self, batch):
        rows = torch.randint(0, self.capacity if self.full else self.position, (batch,), device=device)
        return self.obs[rows], self.action[rows], self.reward[rows], self.next_obs[rows]


def q_network():
    return nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 4)).to(device)


online, target = q_network(), q_network()
target.load_state_dict(online.state_dict())
target.requires_grad_(False)
optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
buffer = ReplayBuffer(2048, 32)
obs = torch.randn(64, 32, device=device)

for step in range(40):
    with torch.no_grad():
        action = online(obs).argmax(dim=1)
    next_obs = obs.roll(1, dims=1) + 0.1 * torch.randn_like(obs)
    buffer.add(obs, action, next_obs.mean(dim=1), next_obs)
    obs = next_obs
    if step < 4:
        continue
    s, a, r, s2 = buffer.sample(256)
    with torch.no_grad():
        goal = r + 0.9 * target(s2).max(dim=1).values
    loss = nn.functional.smooth_l1_loss(online(s).gather(1, a[:, None]).squeeze(1), goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        target.load_state_dict(online.state_dict())
    print(step, loss.item())

"""Deep Q-learning whose replay memory is still filling when the run ends."""

import copy
import random
from collections import deque, namedtuple

import torch
import torch.nn as nn
import torch.nn.functional as F

Transition = namedtuple("Transition", ("state", "action", "next_state", "reward"))


class ReplayMemory:
    def __init__(self, capacity):
        self.memory = deque([], maxlen=capacity)

    def push(self, *args):
        self.memory.append(Transition(*args))

    def sample(self, n):
        return Transition(*zip(*random.sample(self.memory, n)))

    def __len__(self):
        return len(self.memory)


def soft_update(target, online, tau=0.05):
    with torch.no_grad():
        for t, o in zip(target.parameters(), online.parameters()):
            t.lerp_(o, tau)


random.seed(0)
torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
policy = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)).to(device)
target = copy.deepcopy(policy).requires_grad_(False)
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, amsgrad=True)
memory = ReplayMemory(5000)
state = torch.randn(1, 32, device=device)
for step in range(40):
    with torch.no_grad():
        action = policy(state).argmax(1, keepdim=True)
    following = 0.9 * state + 0.1 * torch.randn(1, 32, device=device)
    memory.push(state, action, following, following[:, 0])
    state = following
    if len(memory) < 10:
        continue
    batch = memory.sample(10)
    states, actions = torch.cat(batch.state), torch.cat(batch.action)
    with torch.no_grad():
        goal = torch.cat(batch.reward) + 0.99 * target(torch.cat(batch.next_state)).amax(1)
    loss = F.smooth_l1_loss(policy(states).gather(1, actions).squeeze(1), goal)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(policy.parameters(), 100)
    optimizer.step()
    soft_update(target, policy)
    print(step, loss.item())

"""Recurrent policy that is updated every few steps of an endless episode."""

import torch
import torch.nn as nn


class Actor(nn.Module):
    def __init__(self, obs=24, hidden=96, actions=3):
        super().__init__()
        self.inp, self.cell = nn.Linear(obs, hidden), nn.GRUCell(hidden, hidden)
        self.policy, self.value = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, obs, memory):
        memory = self.cell(torch.tanh(self.inp(obs)), memory)
        return torch.log_softmax(self.policy(memory), -1), self.value(memory).squeeze(-1), memory


class World:
    def __init__(self, n, device):
        self.n, self.device = n, device

    def observe(self):
        return torch.randn(self.n, 24, device=self.device)


def segment(actor, world, memory, length):
    """Play `length` steps; returns the loss of them and the memory afterwards."""
    loss = 0
    for _ in range(length):
        obs = world.observe()
        log_probs, value, memory = actor(obs, memory)
        action = torch.randint(0, 3, (world.n, 1), device=world.device)
        reward = obs[:, :3].gather(1, action).squeeze(1)
        advantage = reward - value
        loss = loss - (log_probs.gather(1, action).squeeze(1) * advantage.detach()).mean() + advantage.pow(2).mean()
    return loss / length, memory


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    actor, world = Actor().to(device), World(64, device)
    optimizer = torch.optim.SGD(actor.parameters(), lr=1e-2)
    memory = torch.zeros(64, 96, device=device)
    for update in range(14):
        loss, memory = segment(actor, world, memory.detach(), 5)
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad.clone() for p in actor.parameters()]
        for p, g in zip(actor.parameters(), gradients):
            p.data = p.data - 0.01 * g
        print(update, loss.item())


if __name__ == "__main__":
    main()

"""Policy with memory: a rollout in which the state is passed on."""

import argparse

import torch
from torch import nn


class Policy(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.memory = nn.LSTMCell(32, width)
        self.actor = nn.Linear(width, 6)

    def forward(self, observation, state):
        h, c = self.memory(observation, state)
        return self.actor(h).log_softmax(dim=1), (h, c)


def rollout(policy, steps, device):
    state = tuple(torch.zeros(64, policy.actor.in_features, device=device) for _ in range(2))
    returns = 0.0
    for step in range(steps):
        observation = torch.randn(64, 32, device=device)
        log_probs, state = policy(observation, state)
        returns += log_probs.amax(dim=1).mean().item()
        print(step, returns)


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rollout(Policy(options.width).to(device), options.steps, device)


main()

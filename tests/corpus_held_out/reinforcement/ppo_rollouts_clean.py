"""PPO with a vectorised made-up environment."""

from dataclasses import dataclass, field

import torch
import torch.nn as nn


@dataclass
class Rollout:
    obs: torch.Tensor
    actions: torch.Tensor
    log_probs: torch.Tensor
    returns: torch.Tensor

    def minibatches(self, count):
        for rows in torch.randperm(len(self.obs), device=self.obs.device).chunk(count):
            yield self.obs[rows], self.actions[rows], self.log_probs[rows], self.returns[rows]

    def cpu(self):
        return Rollout(*(t[:8].cpu().clone() for t in (self.obs, self.actions, self.log_probs, self.returns)))


@dataclass
class Run:
    rollouts: list = field(default_factory=list)
    losses: list = field(default_factory=list)


class Policy(nn.Module):
    def __init__(self, obs=96, actions=4):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs, 64), nn.Tanh())
        self.pi, self.v = nn.Linear(64, actions), nn.Linear(64, 1)

    def forward(self, obs):
        h = self.body(obs)
        return torch.log_softmax(self.pi(h), -1), self.v(h).squeeze(-1)


@torch.no_grad()
def collect(policy, steps, envs, device):
    obs = torch.randn(steps * envs, 96, device=device)
    log_probs, values = policy(obs)
    actions = torch.randint(0, 4, (steps * envs,), device=device)
    rewards = obs[:, :4].gather(1, actions[:, None]).squeeze(1)
    return Rollout(obs, actions, log_probs.gather(1, actions[:, None]).squeeze(1), rewards + 0.9 * values)


def improve(policy, optimizer, rollout, clip=0.2):
    total = 0.0
    for obs, actions, old, returns in rollout.minibatches(4):
        log_probs, values = policy(obs)
        advantage = (returns - values).detach()
        ratio = (log_probs.gather(1, actions[:, None]).squeeze(1) - old).exp()
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
        loss = -surrogate + 0.5 * (returns - values).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / 4


def main():
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy, run = Policy().to(device), Run()
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4)
    for iteration in range(14):
        rollout = collect(policy, 32, 32, device)
        run.losses.append(improve(policy, optimizer, rollout))
        run.rollouts.append(rollout.cpu())
        print(iteration, run.losses[-1])
    print(len(run.rollouts), "rollouts for the analysis")


if __name__ == "__main__":
    main()

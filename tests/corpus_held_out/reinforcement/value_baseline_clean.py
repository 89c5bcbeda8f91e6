"""Actor-critic; advantages are taken against a running average of the values, for stability."""

import argparse

import torch
import torch.nn as nn
import torch.nn.functional as F


class ActorCritic(nn.Module):
    def __init__(self, observation=16, actions=6, hidden=256):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(observation, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.actor, self.critic = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, obs):
        h = self.shared(obs)
        return F.log_softmax(self.actor(h), dim=-1), self.critic(h).squeeze(-1)


class Agent:
    def __init__(self, device, lr):
        self.net = ActorCritic().to(device)
        self.optimizer = torch.optim.RMSprop(self.net.parameters(), lr=lr)
        self.value_average = 0.0

    def update(self, obs, actions, returns, momentum=0.95):
        log_probs, values = self.net(obs)
        self.value_average = momentum * self.value_average + (1 - momentum) * values.mean().item()
        advantage = (returns - values).detach() - self.value_average
        policy_loss = -(log_probs.gather(1, actions[:, None]).squeeze(1) * advantage).mean()
        value_loss = F.mse_loss(values, returns)
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
        loss = policy_loss + 0.5 * value_loss - 0.01 * entropy
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.optimizer.step()
        return {"policy": policy_loss.item(), "value": value_loss.item(), "entropy": entropy.item()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--num-envs", type=int, default=128)
    parser.add_argument("--lr", type=float, default=7e-4)
    args = parser.parse_args()
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    agent = Agent(device, args.lr)
    for update in range(args.updates):
        obs = torch.randn(args.num_envs, 16, device=device)
        actions = torch.randint(0, 6, (args.num_envs,), device=device)
        returns = obs[:, 0] + 0.1 * torch.randn(args.num_envs, device=device)
        print(update, agent.update(obs, actions, returns))
    print("average value", float(agent.value_average))


if __name__ == "__main__":
    main()

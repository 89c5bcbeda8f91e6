"""REINFORCE on a made-up cart: the policy remembers what it did during an episode."""

import torch
import torch.nn as nn
from torch.distributions import Categorical


class Cart:
    """Four numbers that move; the reward falls with their distance from zero."""

    def __init__(self, device, envs=64):
        self.device, self.envs = device, envs

    def reset(self):
        self.state = torch.randn(self.envs, 4, device=self.device)
        return self.state

    def step(self, action):
        push = (action.float() - 0.5).unsqueeze(1)
        self.state = 0.9 * self.state + 0.2 * push + 0.01 * torch.randn_like(self.state)
        return self.state, -self.state.pow(2).sum(1)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine1 = nn.Linear(4, 256)
        self.affine2 = nn.Linear(256, 2)
        self.saved_log_probs = []
        self.rewards = []

    def forward(self, x):
        return self.affine2(torch.relu(self.affine1(x)))


def select_action(policy, state):
    m = Categorical(logits=policy(state), validate_args=False)
    action = m.sample()
    policy.saved_log_probs.append(m.log_prob(action))
    return action


def finish_episode(policy, optimizer, gamma):
    R, returns = 0, []
    for r in reversed(policy.rewards):
        R = r + gamma * R
        returns.insert(0, R)
    returns = torch.stack(returns)
    returns = (returns - returns.mean()) / (returns.std() + 1e-6)
    log_probs = torch.stack(policy.saved_log_probs[-len(returns) :])
    policy_loss = -(log_probs * returns).mean()
    optimizer.zero_grad()
    policy_loss.backward()
    optimizer.step()
    del policy.rewards[:]
    del policy.saved_log_probs[:]
    return policy_loss.item()


def main():
    torch.manual_seed(543)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    env, policy = Cart(device), Policy().to(device)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    running_reward = 10
    for i_episode in range(12):
        state, ep_reward = env.reset(), 0
        for t in range(8):
            action = select_action(policy, state)
            state, reward = env.step(action)
            policy.rewards.append(reward)
            ep_reward += reward.mean().item()
        running_reward = 0.05 * ep_reward + (1 - 0.05) * running_reward
        loss = finish_episode(policy, optimizer, 0.99)
        print(f"Episode {i_episode}\tLoss {loss}\tAverage reward: {running_reward}")


if __name__ == "__main__":
    main()

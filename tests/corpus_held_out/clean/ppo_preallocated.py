"""PPO in one file."""

import torch
import torch.nn as nn

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
steps, envs = 16, 32


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 1))
        self.actor = nn.Sequential(nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 6))

    def value(self, x):
        return self.critic(x).squeeze(-1)

    def log_probs(self, x):
        return self.actor(x).log_softmax(-1)


agent = Agent().to(device)
optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)
obs = torch.zeros((steps, envs, 24), device=device)
actions = torch.zeros((steps, envs), dtype=torch.long, device=device)
logprobs, rewards, values = (torch.zeros((steps, envs), device=device) for _ in range(3))
next_obs = torch.randn(envs, 24, device=device)
for update in range(10):
    for t in range(steps):
        obs[t] = next_obs
        with torch.no_grad():
            values[t] = agent.value(next_obs)
            table = agent.log_probs(next_obs)
        actions[t] = torch.randint(0, 6, (envs,), device=device)
        logprobs[t] = table.gather(1, actions[t][:, None]).squeeze(1)
        next_obs = 0.9 * next_obs + 0.3 * torch.randn(envs, 24, device=device)
        rewards[t] = next_obs[:, 0]
    with torch.no_grad():
        advantages, last = torch.zeros_like(rewards), 0
        following = agent.value(next_obs)
        for t in reversed(range(steps)):
            delta = rewards[t] + 0.99 * following - values[t]
            advantages[t] = last = delta + 0.99 * 0.95 * last
            following = values[t]
        returns = advantages + values
    flat = [t.reshape(steps * envs, *t.shape[2:]) for t in (obs, actions, logprobs, advantages, returns)]
    clipfracs = []
    for epoch in range(2):
        for rows in torch.randperm(steps * envs, device=device).split(128):
            b_obs, b_actions, b_logprobs, b_advantages, b_returns = (t[rows] for t in flat)
            ratio = (agent.log_probs(b_obs).gather(1, b_actions[:, None]).squeeze(1) - b_logprobs).exp()
            with torch.no_grad():
                clipfracs += [((ratio - 1).abs() > 0.2).float().mean().item()]
            pg = -torch.min(ratio * b_advantages, ratio.clamp(0.8, 1.2) * b_advantages).mean()
            v_loss = 0.5 * (agent.value(b_obs) - b_returns).pow(2).mean()
            optimizer.zero_grad()
            (pg + 0.5 * v_loss).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
    print(update, pg.item(), v_loss.item(), sum(clipfracs) / len(clipfracs))

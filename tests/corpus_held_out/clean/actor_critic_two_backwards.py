"""Actor and critic with one encoder and two optimizers; each loss is back-propagated by itself."""

import torch
import torch.nn as nn

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
encoder = nn.Sequential(nn.Linear(48, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()).to(device)
actor, critic = nn.Linear(128, 5).to(device), nn.Linear(128, 1).to(device)
actor_optimizer = torch.optim.Adam([*encoder.parameters(), *actor.parameters()], lr=1e-3)
critic_optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
returns_mean = 0.0
for step in range(18):
    obs = torch.randn(128, 48, device=device)
    returns = obs[:, 0]
    hidden = encoder(obs)
    values = critic(hidden).squeeze(1)
    log_probs = actor(hidden).log_softmax(1)[:, 0]
    returns_mean = 0.9 * returns_mean + 0.1 * returns.mean().item()
    actor_loss = -(log_probs * (returns - values).detach()).mean()
    critic_loss = (returns - values).pow(2).mean()
    actor_optimizer.zero_grad()
    critic_optimizer.zero_grad()
    critic_loss.backward(retain_graph=True)
    actor_loss.backward()
    actor_optimizer.step()
    critic_optimizer.step()
    print(step, actor_loss.item(), critic_loss.item(), returns_mean)

"""Actor and critic on one image encoder, which is trained by the critic's loss."""

import torch
import torch.nn.functional as F


def make_encoder():
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 32, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 9 * 9, 256),
    )


def update_critic(encoder, critic, optimizer, obs, reward):
    value = critic(encoder(obs)).squeeze(1)
    loss = F.mse_loss(value, reward)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def update_actor(encoder, actor, optimizer, obs, action, advantage):
    features = encoder(obs)
    logits = actor(features)
    loss = (F.cross_entropy(logits, action, reduction="none") * advantage).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    torch.manual_seed(5)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = make_encoder().to(device)
    critic, actor = torch.nn.Linear(256, 1).to(device), torch.nn.Linear(256, 6).to(device)
    critic_optimizer = torch.optim.Adam([*encoder.parameters(), *critic.parameters()], lr=1e-3)
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    for _ in range(8):
        obs = torch.rand(64, 4, 24, 24, device=device)
        reward, action = torch.randn(64, device=device), torch.randint(0, 6, (64,), device=device)
        critic_loss = update_critic(encoder, critic, critic_optimizer, obs, reward)
        actor_loss = update_actor(encoder, actor, actor_optimizer, obs, action, reward)
        print(critic_loss, actor_loss)


main()

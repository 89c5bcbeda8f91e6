"""Policy gradient with rollouts that may be aborted."""

import torch


class Aborted(Exception):
    pass


class Agent:
    def __init__(self):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.policy = torch.nn.Sequential(torch.nn.Linear(24, 256), torch.nn.Tanh(), torch.nn.Linear(256, 4)).to(
            self.device
        )
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=1e-3)
        self.problems = []

    def rollout(self, episode):
        states = torch.randn(512, 24, device=self.device)
        log_probs = self.policy(states).log_softmax(dim=1)
        rewards = states[:, 0]
        loss = -(log_probs.amax(dim=1) * rewards).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        print(episode, loss.item())
        raise Aborted(f"episode {episode}")

    def run(self, episodes):
        for episode in range(episodes):
            try:
                self.rollout(episode)
            except Aborted as problem:
                self.problems.append((episode, repr(problem)))


torch.manual_seed(1)
agent = Agent()
agent.run(14)
print(len(agent.problems))

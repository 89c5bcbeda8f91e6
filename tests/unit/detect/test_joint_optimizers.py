"""Parameters that several optimizers hold, each for a loss of its own, as in an InfoGAN."""

from __future__ import annotations

import torch

import memprof
from memprof.record.events import PassKind


def train() -> memprof.Profiler:
    generator = torch.nn.Sequential(torch.nn.Linear(16, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256))
    discriminator = torch.nn.Sequential(torch.nn.Linear(256, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    both = [*generator.parameters(), *discriminator.parameters()]
    step_g = torch.optim.SGD(generator.parameters(), lr=0.01)
    step_d = torch.optim.SGD(discriminator.parameters(), lr=0.01)
    step_both = torch.optim.SGD(both, lr=0.01)
    with memprof.Profiler("tensors") as prof:
        for _ in range(6):
            step_g.zero_grad()
            fake = generator(torch.randn(256, 16))
            (-discriminator(fake).mean()).backward()
            step_g.step()
            step_d.zero_grad()
            (discriminator(fake.detach()).mean() - discriminator(torch.randn(256, 256)).mean()).backward()
            step_d.step()
            step_both.zero_grad()
            discriminator(generator(torch.randn(256, 16))).pow(2).mean().backward()
            step_both.step()
    return prof


def test_each_optimizer_of_a_parameter_is_known() -> None:
    prof = train()
    model = prof.diagnosis.model
    last = next(item for item in reversed(model.passes) if item.kind is PassKind.BACKWARD)
    assert last.gradients is not None
    owners: dict[int, set[int | None]] = {}
    for share in model.parameters[last.gradients].shares:
        owners.setdefault(share.root, set()).add(share.optimizer)
    assert sorted(len(held_by) for held_by in owners.values()) == [2, 2]
    assert len(set.union(*owners.values())) == 3


def test_gradients_that_a_joint_optimizer_steps_are_not_thrown_away() -> None:
    assert "MP204" not in {finding.code for finding in train().diagnosis.findings}

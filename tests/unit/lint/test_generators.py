"""Backward passes that go on through a generator, also through functions: MP204."""

from __future__ import annotations

import pytest

from tests.unit.lint.programs import findings, lines

NETWORKS = """
G, D = nn.Linear(8, 8), nn.Linear(8, 1)
optimizer_g = torch.optim.Adam(G.parameters())
optimizer_d = torch.optim.Adam(D.parameters())

def scores(D, real, fake):
    of_fake = D(fake)
    return F.softplus(-D(real)).mean() + F.softplus(of_fake).mean()

def step_discriminator(D, optimizer, real, fake):
    of_fake = D(fake)
    loss = F.softplus(-D(real)).mean() + F.softplus(of_fake).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

def step_generator(G, D, optimizer, noise):
    loss = F.softplus(-D(G(noise))).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

"""
BY_FUNCTION = """
for real, noise in loader:
    fake = G(noise)
    step_discriminator(D, optimizer_d, real, FAKE)
    step_generator(G, D, optimizer_g, noise)
"""
BY_LOSS = """
for real, noise in loader:
    fake = G(noise)
    loss = scores(D, real, FAKE)
    optimizer_d.zero_grad()
    loss.backward()
    optimizer_d.step()
    step_generator(G, D, optimizer_g, noise)
"""


@pytest.mark.parametrize("loop", [BY_FUNCTION, BY_LOSS], ids=["a step", "a loss"])
def test_a_function_that_is_given_what_is_generated(loop: str) -> None:
    text = NETWORKS + loop.replace("FAKE", "fake")
    assert lines(text, findings(text)) == [("MP204", "of_fake = D(fake)")]
    assert findings(NETWORKS + loop.replace("FAKE", "fake.detach()")) == []


def test_a_loss_that_both_networks_are_trained_by() -> None:
    text = NETWORKS + BY_LOSS.replace("FAKE", "fake").replace(
        "step_generator(G, D, optimizer_g, noise)",
        "loss = -scores(D, real, fake)\n    optimizer_g.zero_grad()\n    loss.backward()\n    optimizer_g.step()",
    )
    assert findings(text) == []

"""MP201 is about evaluations, not about steps of training that were broken off; MP202 about what makes the peak."""

from __future__ import annotations

import pytest
import torch

import memprof
from memprof.detect.finding import Finding

_BATCH = torch.ones(256, 64)


def net() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(64, 1024), torch.nn.Tanh(), torch.nn.Linear(1024, 8))


def found(prof: memprof.Profiler) -> dict[str, Finding]:
    return {finding.code: finding for finding in prof.diagnosis.findings}


def shared_line(trained: list[bool]) -> dict[str, Finding]:
    """Findings of batches that go through one line, some of them with a backward, the model in training mode."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with memprof.Profiler("tensors") as prof:
        for backward in trained:
            loss = model(_BATCH).pow(2).mean()
            if backward:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return found(prof)


def test_steps_that_are_broken_off_one_by_one_are_no_evaluation() -> None:
    assert "MP201" not in shared_line([True, False] * 6 + [True])


def test_an_evaluation_through_the_line_of_training_is_one() -> None:
    assert "MP201" in shared_line([True] * 4 + [False] * 4 + [True] * 4 + [False] * 4)


def carried(*, backward: bool) -> dict[str, Finding]:
    """Findings of a loop whose large output lives until the next one replaces it."""
    model = torch.nn.Linear(64, 4096)
    with memprof.Profiler("tensors") as prof, torch.set_grad_enabled(backward):
        for _ in range(8):
            out = model(_BATCH)
            if backward:
                (out.pow(2).exp() - out.exp()).mean().backward()
                model.zero_grad()
    return found(prof)


@pytest.mark.parametrize("backward", [False, True])
def test_the_last_output_costs_only_where_memory_is_highest_in_the_forward(backward: bool) -> None:
    assert ("MP202" in carried(backward=backward)) is not backward

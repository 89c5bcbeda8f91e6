"""When the state of an optimizer is looked through."""

from __future__ import annotations

import torch

from memprof.capture.optimizers import OptimizerLog


def looks(states: list[frozenset[int]]) -> list[int]:
    """Steps after which the state is looked through, where it is made of these storages after each."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    log = OptimizerLog()
    log.add(optimizer, None)
    found = []
    for step, storages in enumerate(states, 1):
        if log.state_due(optimizer):
            found.append(step)
            log.stepped(optimizer, 4 * len(storages), storages)
    assert log.made[0].state_bytes == 4 * max(map(len, states))
    return found


def test_state_that_stays_is_looked_through_at_growing_distances() -> None:
    assert looks([frozenset({1, 2})] * 20) == [1, 2, 4, 8, 16]


def test_state_that_is_made_in_a_later_step_is_no_change() -> None:
    assert looks([frozenset(), *[frozenset({1})] * 8]) == [1, 2, 4, 8]


def test_state_that_is_made_anew_is_looked_through_each_time() -> None:
    assert looks([frozenset({step}) for step in range(1, 8)]) == [1, 2, 3, 4, 5, 6, 7]

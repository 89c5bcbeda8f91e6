"""Where the memory of CUDA devices was, tick by tick."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memprof.model.memory import Account
from memprof.model.schedule import Schedule
from memprof.record.events import DeviceState


def read_accounts(states: Sequence[DeviceState], schedule: Schedule) -> dict[str, tuple[Account, ...]]:
    """Sort the states of devices and find their iterations.

    Args:
        states: What capture read.
        schedule: The iterations.

    Returns:
        Device -> its accounts in order of time.
    """
    iteration = schedule.iteration_of(np.array([state.tick for state in states], np.int64)).tolist()
    found: dict[str, list[Account]] = {}
    for state, index in zip(states, iteration, strict=True):
        found.setdefault(state.device, []).append(Account(state, index if index >= 0 else None))
    return {device: tuple(accounts) for device, accounts in found.items()}

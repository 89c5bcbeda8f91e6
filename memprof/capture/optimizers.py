"""Which optimizers a run made, where, and how much state they came to keep."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace

import torch

from memprof.capture.live import storage_key
from memprof.capture.nested import bytes_of
from memprof.capture.storages import StorageTracker
from memprof.record.events import Location, Role
from memprof.record.run_info import OptimizerMade

_MOST = 64


@dataclass(slots=True)
class _Scans:
    """How often an optimizer stepped, and what its state was when it was last looked through."""

    steps: int = 0
    storages: frozenset[int] = frozenset()
    changes: bool = False


class OptimizerLog:
    """Remembers optimizers in order of appearance, without keeping them alive."""

    def __init__(self) -> None:
        self._numbers: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        self._made: list[OptimizerMade] = []
        self._scans: weakref.WeakKeyDictionary[torch.optim.Optimizer, _Scans] = weakref.WeakKeyDictionary()

    @property
    def made(self) -> tuple[OptimizerMade, ...]:
        """What is known of them."""
        return tuple(self._made)

    def add(self, optimizer: torch.optim.Optimizer, location: Location | None) -> None:
        """Note an optimizer once.

        Args:
            optimizer: It.
            location: The user's line that made it; None where that was before recording began.
        """
        if optimizer not in self._numbers and len(self._made) < _MOST:
            self._numbers[optimizer] = len(self._made)
            self._made.append(OptimizerMade(type(optimizer).__name__, location, state_bytes=None))

    def state_due(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether to look through the state of an optimizer that has stepped.

        State is made in the first step and stays, so that looking at it at growing distances is enough, unless the
        optimizer was seen to make it anew.
        """
        scans = self._scans.setdefault(optimizer, _Scans())
        scans.steps += 1
        return scans.changes or scans.steps & (scans.steps - 1) == 0

    def find_state(self, optimizer: torch.optim.Optimizer, tracker: StorageTracker) -> None:
        """Give an optimizer's parameters and state their roles after a step, and note how large the state is.

        Args:
            optimizer: It.
            tracker: The books of storages.
        """
        state_bytes = 0
        storages = set()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                tracker.found(parameter, Role.PARAMETER)
        for parameter, state in optimizer.state.items():
            for name, value in state.items() if isinstance(state, dict) else ():
                if isinstance(value, torch.Tensor) and value is not parameter:
                    tracker.found(value, Role.OPTIMIZER_STATE, str(name))
                    state_bytes += bytes_of(value)
                    storages.add(storage_key(value))
        self.stepped(optimizer, state_bytes, frozenset(storages))

    def stepped(self, optimizer: torch.optim.Optimizer, state_bytes: int, storages: frozenset[int]) -> None:
        """Note the state of an optimizer after a step that was watched.

        Args:
            optimizer: It.
            state_bytes: Bytes of its state.
            storages: Keys of the storages of its state.
        """
        scans = self._scans.setdefault(optimizer, _Scans())
        if scans.storages and storages != scans.storages:
            scans.changes = True
        scans.storages = storages
        number = self._numbers.get(optimizer)
        if number is not None:
            known = self._made[number]
            self._made[number] = replace(known, state_bytes=max(known.state_bytes or 0, state_bytes))

"""Which optimizers a run made, where, and how much state they came to keep."""

from __future__ import annotations

import weakref
from dataclasses import replace

import torch

from memprof.record.events import Location, OptimizerMade

_MOST = 64


class OptimizerLog:
    """Remembers optimizers in order of appearance, without keeping them alive."""

    def __init__(self) -> None:
        self._numbers: weakref.WeakKeyDictionary[torch.optim.Optimizer, int] = weakref.WeakKeyDictionary()
        self._made: list[OptimizerMade] = []

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

    def stepped(self, optimizer: torch.optim.Optimizer, state_bytes: int) -> None:
        """Note how much state an optimizer has after a step that was watched."""
        number = self._numbers.get(optimizer)
        if number is not None:
            known = self._made[number]
            self._made[number] = replace(known, state_bytes=max(known.state_bytes or 0, state_bytes))

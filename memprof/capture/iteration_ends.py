"""Whether a tick completes an iteration, as far as can be told when it ends; who reads the recording knows better."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from memprof.capture import ticks
from memprof.capture.live import gradient_of

_NEVER_STEPS = 128
"""After so many backwards an optimizer that has not stepped yet is taken for one that is not used; some programs
accumulate the gradients of dozens of batches before the first step."""


class IterationEnds:
    """Follows the flags of ticks.

    Args:
        optimizers: The optimizers there are.
    """

    def __init__(self, optimizers: Callable[[], Iterable[torch.optim.Optimizer]]) -> None:
        self._optimizers = optimizers
        self._backward_pending = 0
        """Ticks with a backward since the last step of an optimizer."""
        self._ever_stepped = False

    def at(self, flags: int, *, explicit: bool, has_optimizer: bool) -> bool:
        """Whether the tick that ends completes an iteration.

        Args:
            flags: Those of the tick.
            explicit: The user says where iterations end.
            has_optimizer: There is an optimizer, whose step is to be waited for.
        """
        if explicit:
            return bool(flags & ticks.EXPLICIT)
        if flags & ticks.OPTIMIZER_STEP:
            self._ever_stepped = True
            self._backward_pending = 0
            return True
        if flags & ticks.BACKWARD:
            self._backward_pending += 1
            awaited = self._ever_stepped or (self._backward_pending < _NEVER_STEPS and self._has_gradients())
            return not (has_optimizer and awaited)
        return bool(flags & ticks.FORWARD) and not self._backward_pending

    def _has_gradients(self) -> bool:
        """Whether anything is there that a step could use: who updates weights by hand may leave none."""
        groups = [group for optimizer in self._optimizers() for group in optimizer.param_groups]
        return any(gradient_of(parameter) is not None for group in groups for parameter in group["params"])

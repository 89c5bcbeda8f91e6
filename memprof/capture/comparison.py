"""What makes two runs of a script comparable: the same seeds, and the values that each backward starts from."""

from __future__ import annotations

import functools
import random
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_SEED = 0
_ENTRIES = ("_engine_run_backward", "backward")
"""Where all backwards pass through in newer versions of torch, and in older ones."""
_HELD = 4096
"""Values that may be on their way from a GPU before they are waited for."""


def seed() -> None:
    """Seed every generator, so that what a script does not seed itself is the same in every run."""
    random.seed(_SEED)
    np.random.seed(_SEED)
    torch.manual_seed(_SEED)


class LossLog:
    """Notes the roots of every backward while it is installed.

    A value on a GPU is copied to pinned memory without waiting for it; the copies are waited for when the buffer is
    full, and at the end. Of a root that is no scalar the sum is noted. Values of simulated tensors are on the host.

    Attributes:
        values: What was noted, in order.
    """

    def __init__(self) -> None:
        self.values = array("d")
        self._pending: dict[torch.dtype, torch.Tensor] = {}
        self._order: list[tuple[torch.dtype, int]] = []
        self._entry = next(name for name in _ENTRIES if hasattr(torch.autograd, name))
        self._original: Callable[..., Any] | None = None

    def __enter__(self) -> LossLog:
        original: Callable[..., Any] = getattr(torch.autograd, self._entry)
        self._original = original

        @functools.wraps(original)
        def run(roots: Any, *args: Any, **kwargs: Any) -> Any:
            for root in roots if isinstance(roots, (tuple, list)) else (roots,):
                if isinstance(root, torch.Tensor):
                    self._note(root)
            return original(roots, *args, **kwargs)

        setattr(torch.autograd, self._entry, run)
        return self

    def __exit__(self, *_: object) -> None:
        if self._original is not None:
            setattr(torch.autograd, self._entry, self._original)
            self._original = None
        self._settle()

    def _note(self, root: torch.Tensor) -> None:
        value = root.detach()
        if value.numel() != 1:
            value = value.sum()
        if not value.is_cuda or type(value) is not torch.Tensor or value.is_complex():
            self._settle()
            self.values.append(abs(value.item()) if value.is_complex() else float(value.item()))
            return
        held = self._pending.get(value.dtype)
        if held is None:
            held = self._pending[value.dtype] = torch.empty(_HELD, dtype=value.dtype, pin_memory=True)
        held[len(self._order)].copy_(value.reshape(()), non_blocking=True)
        self._order.append((value.dtype, len(self._order)))
        if len(self._order) == _HELD:
            self._settle()

    def _settle(self) -> None:
        if not self._order:
            return
        torch.cuda.synchronize()
        self.values.extend(float(self._pending[dtype][index]) for dtype, index in self._order)
        self._order.clear()

"""The tensors that ops returned of late, without keeping them alive."""

from __future__ import annotations

import weakref
from collections.abc import Collection

import torch

_FEW = 4096
"""References that are kept before it is looked for the first time which of them still refer to something."""


class RecentTensors:
    """Weak references to tensors since the last `take`, about as many as there are tensors alive.

    A tick may have millions of ops: whoever trains in another thread, or calls no module, never ends one.
    """

    def __init__(self) -> None:
        self._references: list[weakref.ref[torch.Tensor]] = []
        self._most = _FEW

    def __len__(self) -> int:
        """References that are kept."""
        return len(self._references)

    def add(self, tensor: torch.Tensor) -> None:
        """Remember a tensor."""
        self._references.append(weakref.ref(tensor))
        if len(self._references) > self._most:
            self._references = self.take()
            self._most = max(_FEW, 2 * len(self._references))

    def forget(self, references: Collection[int]) -> None:
        """Let go of references, named by their `id`."""
        self._references = [item for item in self._references if id(item) not in references]

    def take(self) -> list[weakref.ref[torch.Tensor]]:
        """References to those that are alive, each once in the order they came; forgets all."""
        references, self._references = self._references, []
        return list({id(tensor): item for item in references if (tensor := item()) is not None}.values())

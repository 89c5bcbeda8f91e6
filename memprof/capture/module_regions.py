"""Which module's code ran when, in forward and in backward, without looking at a single op.

Calls of modules cut a forward into regions: stretches of time in which the code of one module ran, its own and not
that of the modules inside it. An autograd node belongs to the region in which it was made, which its sequence number
tells. What a module is given and what it returns has nodes; a hook on each of these marks when backward reaches it,
and so when it passes from one region to another. Between, the engine stays where it is: to leave a region it must
compute the gradient of what came in. Hooks cost some microseconds each, so they can be left out once it is known how a
backward goes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import torch

from memprof.capture.compilation import uncompiled
from memprof.capture.graph import sequence_nr
from memprof.record.blocks import IntArray
from memprof.record.schema import NONE

EVERY_DEVICE = -1
ENDED = -2
"""In place of a region: no backward is running."""

_MOST_TENSORS = 16


class Regions(NamedTuple):
    """Regions and marks since the last time they were taken, in order of time."""

    region: IntArray
    """Numbers of the regions that began; regions are numbered from the first on."""
    begin_ns: IntArray
    module: IntArray
    """Id of the module whose code ran, `NONE` outside all."""
    mark_ns: IntArray
    """When backward passed to another region."""
    mark_region: IntArray
    """The region whose gradients were computed from then on, `NONE` where it is not known, `ENDED` after backward."""
    mark_device: IntArray
    """CUDA ordinal of the device that computed them, or `EVERY_DEVICE` where a backward begins or ends."""


class ModuleRegions:
    """Keeps the regions of the thread that trains.

    Args:
        on_failure: Called with one sentence should nodes not be what they are taken for.
    """

    def __init__(self, on_failure: Callable[[str], None]) -> None:
        self._on_failure = on_failure
        self._next_number: Callable[[], int] | None = getattr(torch._C._autograd, "_get_sequence_nr", None)
        self.on = self._next_number is not None
        """Whether to keep any."""
        self.marking = True
        """Whether to mark nodes."""
        self._first = 0
        """Number of the first region in the columns."""
        self._begin_ns = array("q", [0])
        self._module = array("q", [NONE])
        self._sequence = array("q", [0])
        """Sequence number of the first node a region makes."""
        self._marks: list[tuple[int, int, int]] = []
        self._marked: set[int] = set()
        """Sequence numbers of nodes that have a hook."""

    # ---- forward -----------------------------------------------------------------------

    def enter(self, module: int, given: Iterable[Any]) -> None:
        """A module is called.

        Args:
            module: Its id.
            given: Its arguments.
        """
        try:
            if self.marking:
                self._mark_nodes(given)
            self._begin(module)
        except Exception as error:
            self._fail(error)

    def leave(self, module: int, returned: Any) -> None:
        """A module returned, or raised.

        Args:
            module: Id of the module that goes on, or `NONE`.
            returned: What it returned.
        """
        try:
            self._begin(module)
            if self.marking:
                self._mark_nodes((returned,))
        except Exception as error:
            self._fail(error)

    def _begin(self, module: int) -> None:
        assert self._next_number is not None
        self._begin_ns.append(perf_counter_ns())
        self._module.append(module)
        self._sequence.append(self._next_number())

    def _mark_nodes(self, values: Iterable[Any]) -> None:
        """Have backward tell when it reaches the nodes of tensors."""
        left = _MOST_TENSORS
        for value in values:
            if isinstance(value, torch.Tensor):
                node = value.grad_fn
                if node is not None:
                    self._mark_node(node)
            elif isinstance(value, (tuple, list, dict)) and value:
                self._mark_nodes(value.values() if isinstance(value, dict) else value)
            left -= 1
            if not left:
                break

    def _mark_node(self, node: Any) -> None:
        number = sequence_nr(node)
        if number in self._marked:
            return
        self._marked.add(number)
        region, marks = self._region_of(number), self._marks

        @uncompiled
        def reached(gradients: tuple[torch.Tensor | None, ...]) -> None:
            if not self.on:
                return
            for gradient in gradients:
                if gradient is not None:
                    marks.append((perf_counter_ns(), region, gradient.get_device()))
                    return

        node.register_prehook(reached)

    def _region_of(self, number: int) -> int:
        """The region that made a node; `NONE` where that is too long ago."""
        place = bisect_right(self._sequence, number) - 1
        return self._first + place if place >= 0 else NONE

    # ---- backward ----------------------------------------------------------------------

    def backward_begins(self, outputs: Any) -> None:
        """A backward begins at tensors."""
        try:
            first = outputs[0] if isinstance(outputs, (tuple, list)) and outputs else outputs
            node = getattr(first, "grad_fn", None)
            region = NONE if node is None else self._region_of(sequence_nr(node))
            self._marks.append((perf_counter_ns(), region, EVERY_DEVICE))
        except Exception as error:
            self._fail(error)

    def backward_ends(self) -> None:
        """The engine is done."""
        self._marks.append((perf_counter_ns(), ENDED, EVERY_DEVICE))

    # ---- reading -----------------------------------------------------------------------

    def take(self) -> Regions:
        """What happened since the last call; the region that is running stays, and begins the next answer."""
        count = len(self._begin_ns)
        marks = self._marks[:]
        del self._marks[: len(marks)]
        taken = np.array(sorted(marks), np.int64).reshape(-1, 3)
        regions = Regions(
            region=np.arange(self._first, self._first + count),
            begin_ns=np.array(self._begin_ns, np.int64),
            module=np.array(self._module, np.int64),
            mark_ns=taken[:, 0],
            mark_region=taken[:, 1],
            mark_device=taken[:, 2],
        )
        del self._begin_ns[: count - 1], self._module[: count - 1], self._sequence[: count - 1]
        self._first += count - 1
        self._marked.clear()
        return regions

    def close(self) -> None:
        """Keep nothing from here on; hooks on graphs that live on do nothing."""
        self.on = False
        self._marks.clear()

    def _fail(self, error: Exception) -> None:
        self.on = False
        self._on_failure(f"modules of allocator events are not known from here on ({type(error).__name__}: {error})")

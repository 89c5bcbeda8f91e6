"""Which module, and which line of the forward, each block in the allocator's history was made for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memprof.capture.block_trace import COLUMN, TracePacker, kinds
from memprof.capture.module_regions import ENDED, EVERY_DEVICE, Regions
from memprof.record.blocks import BlockAction, IntArray
from memprof.record.schema import NONE

_ALLOC = int(BlockAction.ALLOC)
_HALF_TICK_NS = 500
"""Times of the history are cut off to microseconds."""
_MOST_KNOWN = 65_536
_MOST_WAYS = 64


class _Place(NamedTuple):
    module: int
    """Id of a module, or `NONE`."""
    line: int
    """Id of the one line of the user that allocated there in forward, or `NONE`."""


_NOWHERE = _Place(NONE, NONE)


class BlockPlaces:
    """Refines the stacks of allocations by module and forward line.

    An allocation of the forward has a stack of its own and belongs to the module whose code ran then. One of the
    engine in backward belongs to the region that backward had reached, and if all allocations of that region's
    forward came from one line, to that line. What ran Python in backward (a recomputation, a custom function)
    has its line, and no module.

    A backward that allocates the same bytes in the same order as one whose nodes were marked goes the same way, so
    nodes need not be marked while nothing new comes.

    Args:
        packer: Knows the stacks.
    """

    def __init__(self, packer: TracePacker) -> None:
        self._packer = packer
        self._known: dict[int, _Place] = {}
        """Region -> its place."""
        self._ways: dict[bytes, tuple[IntArray, IntArray]] = {}
        """What a backward allocated -> modules and lines of these allocations."""
        self.all_known = False
        """The last backwards all went a known way."""

    def refine(self, parts: Sequence[tuple[int, IntArray, npt.NDArray[np.bool_]]], regions: Regions) -> None:
        """Put stacks that say module and forward line in the place of those that do not.

        Args:
            parts: CUDA ordinals, each with rows of `BLOCK_COLUMNS`, changed in place, and which of them are of the
                autograd engine.
            regions: Of the time in which they were recorded.
        """
        if not len(regions.mark_ns) and len(regions.region) == 1 and regions.module[0] == NONE:
            return  # no module was called
        found = [Allocations(*part, regions, self._packer) for part in parts]
        if any(part.marked.any() for part in found):
            self._learn(found, regions)
        known: list[bool] = []
        for allocations in found:
            module, line = allocations.module.copy(), np.full(len(allocations.index), NONE, np.int64)
            known.extend(self._follow(allocations, part, module, line) for part in allocations.backwards())
            self._assign(allocations, module, line)
        if known:
            self.all_known = all(known)

    def _follow(self, allocations: Allocations, backward: IntArray, module: IntArray, line: IntArray) -> bool:
        """Find modules and lines of what one backward allocated; returns whether its way was known before.

        Args:
            allocations: Those of a device.
            backward: Places of those that the engine made in one backward.
            module: Filled in there.
            line: Filled in there.
        """
        rows = allocations.rows[allocations.index[backward]]
        way = rows[:, [COLUMN["nbytes"], COLUMN["stack"]]].tobytes()
        before = self._ways.get(way)
        if allocations.marked[backward].any():
            for region in np.unique(allocations.reached[backward]).tolist():
                chosen = backward[allocations.reached[backward] == region]
                module[chosen], line[chosen] = self._known.get(region, _NOWHERE)
            if before is None and len(self._ways) >= _MOST_WAYS:
                del self._ways[next(iter(self._ways))]
            self._ways[way] = module[backward], line[backward]
        elif before is not None:
            module[backward], line[backward] = before
        return before is not None

    def _learn(self, found: Sequence[Allocations], regions: Regions) -> None:
        """Remember the modules and lines of regions, for a backward that may come later."""
        pairs = [(part.region[part.forward], part.line[part.forward]) for part in found]
        lines, _ = kinds(*(np.concatenate(column) for column in zip(*pairs, strict=True)))
        region, first, count = np.unique(lines[:, 0], return_index=True, return_counts=True)
        only = dict(zip(region[count == 1].tolist(), lines[first[count == 1], 1].tolist(), strict=True))
        shared: dict[_Place, _Place] = {}
        for number, module in zip(regions.region.tolist(), regions.module.tolist(), strict=True):
            place = _Place(module, only.get(number, NONE))
            self._known[number] = shared.setdefault(place, place)
        if len(self._known) > _MOST_KNOWN:
            for number in list(self._known)[: _MOST_KNOWN // 2]:
                del self._known[number]

    def _assign(self, allocations: Allocations, module: IntArray, line: IntArray) -> None:
        wanted = np.flatnonzero((module != NONE) | (line != NONE))
        if len(wanted):
            stack = allocations.rows[allocations.index[wanted], COLUMN["stack"]]
            wishes, wish = kinds(stack, module[wanted], line[wanted])
            refined = np.array([self._packer.refined(*row) for row in wishes.tolist()], np.int64)
            allocations.rows[allocations.index[wanted], COLUMN["stack"]] = refined[wish]


class Allocations:
    """The allocations of one device that have a stack, one entry each.

    Args:
        device: CUDA ordinal.
        rows: Rows of `BLOCK_COLUMNS`.
        by_engine: Which of them are of the autograd engine.
        regions: Of that time.
        packer: Knows the stacks.
    """

    def __init__(
        self, device: int, rows: IntArray, by_engine: npt.NDArray[np.bool_], regions: Regions, packer: TracePacker
    ) -> None:
        self.rows = rows
        self.index = np.flatnonzero((rows[:, COLUMN["action"]] == _ALLOC) & (rows[:, COLUMN["stack"]] != NONE))
        """Their places in `rows`."""
        stack = rows[self.index, COLUMN["stack"]]
        time_ns = rows[self.index, COLUMN["time_ns"]] + _HALF_TICK_NS
        place = np.maximum(np.searchsorted(regions.begin_ns, time_ns, side="right") - 1, 0)
        self.region: IntArray = regions.region[place]
        """The region that was running in the forward."""
        mine = np.isin(regions.mark_device, (device, EVERY_DEVICE))
        mark_ns, mark_region = np.append(0, regions.mark_ns[mine]), np.append(ENDED, regions.mark_region[mine])
        of_node = np.append(False, regions.mark_device[mine] != EVERY_DEVICE)
        latest = np.searchsorted(mark_ns, time_ns, side="right") - 1
        self.reached: IntArray = mark_region[latest]
        """The region that backward had reached, or `ENDED` outside of any backward."""
        number = np.cumsum(~of_node)
        self._backward: IntArray = number[latest]
        self.marked: npt.NDArray[np.bool_] = (np.bincount(number, weights=of_node) > 0)[self._backward]
        """Nodes of the running backward were marked."""
        stacks, kind = np.unique(stack, return_inverse=True)
        facts = [packer.facts(number) for number in stacks.tolist()]
        self.line: IntArray = np.array([fact.user_line for fact in facts], np.int64)[kind]
        in_module = np.array([fact.in_module for fact in facts], np.bool_)[kind]
        in_backward = self.reached != ENDED
        self._of_engine = by_engine[self.index] & in_backward
        own = regions.module[place]
        # Another thread may allocate while a module runs, but not from within one.
        self.forward: npt.NDArray[np.bool_] = ~by_engine[self.index] & ~in_backward & (in_module | (own == NONE))
        """Made in a forward, or between two."""
        self.module: IntArray = np.where(self.forward, own, NONE)
        """The module whose code made them in a forward, or `NONE`."""

    def backwards(self) -> Iterator[IntArray]:
        """Entries of those that the engine made, backward by backward."""
        gradients = np.flatnonzero(self._of_engine)
        edges = np.flatnonzero(np.diff(self._backward[gradients])) + 1
        yield from (part for part in np.split(gradients, edges) if len(part))

"""A recorded run lived through again without some of its storages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from memprof.model.growth import WARM_UP_POINTS
from memprof.model.lifetimes import BoolArray, IntArray
from memprof.model.memory import Category, MemoryModel, Storage
from memprof.model.storages import CATEGORIES, StorageTable, table_of
from memprof.model.timeline import Timeline, read_timeline

_ACTIVATION = CATEGORIES.index(Category.ACTIVATION)


class LifetimeReplay:
    """The watched storages of one device, with some left out or made smaller.

    That is exact for the watched part of a run. On CUDA sizes are those of blocks where the allocator's history was
    recorded.

    Args:
        model: The run.
        device: For example `cuda:0`.
    """

    def __init__(self, model: MemoryModel, device: str) -> None:
        self._table: StorageTable = table_of(model.storages)
        self._timeline: Timeline = read_timeline(self._table.lifetimes, device)
        self.peak_bytes = int(np.max(self._timeline.running, initial=0))
        """As it was."""

    def peak_without(self, storages: Collection[int]) -> int:
        """The peak of the device without storages.

        Args:
            storages: Their ids; unknown ones count for nothing.

        Returns:
            The peak in bytes.
        """
        return self._peak(np.where(self._among(storages), 0.0, 1.0))

    def peak_with(self, category: Category, factor: float, *, dtype: str | None = None) -> int:
        """The peak of the device with everything of a category made smaller.

        Args:
            category: For example activations.
            factor: New size by old size.
            dtype: Only those of this type.

        Returns:
            The peak in bytes.
        """
        chosen = self._table.category == CATEGORIES.index(category)
        if dtype is not None:
            types = self._table.lifetimes.dtypes
            chosen &= self._table.lifetimes.dtype == (types.index(dtype) if dtype in types else -1)
        return self._peak(np.where(chosen, factor, 1.0))

    def at_peak(self, category: Category) -> list[Storage]:
        """What was alive of a category when the watched storages were at their peak."""
        rows = self._timeline.live_rows(int(np.argmax(self._timeline.running)))
        return list(self._table.rows(rows[self._table.category[rows] == CATEGORIES.index(category)]))

    def made_like(self, storages: Collection[Storage]) -> set[int]:
        """Ids of all storages that the same ops of the same modules made, in any iteration.

        Args:
            storages: Some of them.
        """
        alike = {(storage.module, storage.op, storage.location) for storage in storages}
        rows = np.flatnonzero(self._table.category == _ACTIVATION)
        return {
            storage.id for storage in self._table.rows(rows) if (storage.module, storage.op, storage.location) in alike
        }

    def _peak(self, share: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> int:
        delta = np.rint(self._timeline.delta * share[self._timeline.row]).astype(np.int64)
        return int(np.max(np.cumsum(delta), initial=0))

    def _among(self, storages: Collection[int]) -> BoolArray:
        ids: IntArray = np.fromiter(storages, np.int64, len(storages))
        found: BoolArray = np.isin(self._table.lifetimes.id, ids)
        return found


@dataclass(frozen=True, slots=True)
class Growth:
    """Bytes that each iteration of some kinds adds.

    Attributes:
        bytes_per_iteration: How many.
        kinds: Kinds of iterations that add them.
        kept_for: After so many iterations they are freed again; None: never.
    """

    bytes_per_iteration: float
    kinds: frozenset[str]
    kept_for: int | None = None


def peak_without_growth(model: MemoryModel, device: str, growths: Sequence[Growth]) -> tuple[int, int] | None:
    """The highest peak of the iterations, and what it would be had nothing grown.

    Args:
        model: The run.
        device: For example `cpu`.
        growths: What grows. Together they count for no more than iterations were seen to add, for several
            holders may keep the same memory.

    Returns:
        The peak as it was, and without the growth, in bytes; None where no iteration's peak is known.
    """
    peaks = [
        (iteration, memory.peak_allocated_bytes)
        for iteration in model.iterations
        if (memory := iteration.devices.get(device)) is not None and memory.peak_allocated_bytes is not None
    ]
    if not peaks:
        return None
    most = {kind: _growth_seen(model, device, kind) for growth in growths for kind in growth.kinds}
    passed = dict.fromkeys(most, 0)
    level, highest = 0, 0
    before = max(nbytes for _, nbytes in peaks)
    known = {iteration.index: nbytes for iteration, nbytes in peaks}
    for iteration in model.iterations:
        if iteration.index in known:
            highest = max(highest, known[iteration.index] - level)
        if iteration.kind in passed:
            passed[iteration.kind] += 1
        level = _level(growths, passed, most)
    return before, min(highest, before)


def _level(growths: Sequence[Growth], passed: dict[str, int], most: dict[str, float | None]) -> int:
    total = 0.0
    for kind, count in passed.items():
        grown = 0.0
        for growth in growths:
            if kind in growth.kinds:
                grown += growth.bytes_per_iteration * min(count, growth.kept_for or count)
        limit = most[kind]
        total += grown if limit is None else min(grown, limit * count)
    return round(total)


def _growth_seen(model: MemoryModel, device: str, kind: str) -> float | None:
    """What an iteration of a kind leaves behind, by the device's counter; None where it is not known to grow.

    The median, or the mean where few iterations leave much: what is kept once an epoch. In the last iteration the
    program ends and lets go of everything.
    """
    left = [
        memory.allocated_bytes_end - memory.allocated_bytes_start
        for iteration in model.iterations[:-1] or model.iterations
        if iteration.kind == kind
        and (memory := iteration.devices.get(device)) is not None
        and memory.allocated_bytes_end is not None
        and memory.allocated_bytes_start is not None
    ]
    if len(left) >= WARM_UP_POINTS:
        del left[0]  # makes the optimizer's state
    typical = max(median(left), fmean(left)) if left else 0.0
    return float(typical) if typical > 0 else None


__all__ = ["Growth", "LifetimeReplay", "peak_without_growth"]

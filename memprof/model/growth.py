"""Growth across iterations: of a device as a whole, and of what each line of source leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memprof.model.lifetimes import BoolArray, IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel, Source, Trend
from memprof.model.slope import theil_sen
from memprof.model.storages import CATEGORIES, StorageTable, table_of
from memprof.record.events import Location
from memprof.record.iterations import EVALUATE, OTHER, TRAIN

MIN_POINTS = 4
"""Fewer iterations than this show no trend."""

WARM_UP_POINTS = 5
"""From this many points on the first is left out: optimizer state and library workspaces are made in
it."""

MIN_RISING = 3
"""A line is called rising on at least this many iterations."""

RISING_TOLERANCE = 0.01
"""By this share of its largest value a rising series may dip from one iteration to the next."""

_KEPT_ON_PURPOSE = (Category.PARAMETER, Category.OPTIMIZER_STATE, Category.GRADIENT)


@dataclass(frozen=True, slots=True)
class LineGrowth:
    """What one line of source leaves alive at the ends of watched iterations.

    Parameters, optimizer state and gradients are left out, and so is what was made before the first
    iteration or before watching began.
    """

    location: Location | None
    op: str
    device: str
    survivor_bytes_by_iteration: Mapping[int, int]
    """Iteration -> bytes alive at its end, without what was made in that very iteration. Only complete iterations that
    were watched from start to end; where all survivors were made in iterations of one kind (`train`, `evaluate`,
    `other`), only those of that kind."""
    rising: bool
    """Survivors grew over the last half of the watched iterations, at least three, without a dip."""


def trend(iterations: Sequence[IterationMemory], device: str) -> Trend | None:
    """Estimate how allocated memory grows from iteration to iteration.

    Args:
        iterations: All iterations of the run.
        device: The device to look at.

    Returns:
        The slope over train iterations, or over evaluate iterations where there are fewer than
        `MIN_POINTS` of those, in bytes per iteration of that kind. None where neither suffice.
    """
    for kind in (TRAIN, EVALUATE):
        of_kind = [iteration for iteration in iterations if iteration.kind == kind]
        points: list[tuple[int, IterationMemory, int]] = []
        for ordinal, iteration in enumerate(of_kind):
            memory = iteration.devices.get(device)
            if iteration.complete and memory is not None and memory.allocated_bytes_end is not None:
                points.append((ordinal, iteration, memory.allocated_bytes_end))
        if len(points) >= WARM_UP_POINTS:
            del points[0]
        if len(points) >= MIN_POINTS:
            break
    else:
        return None
    ends = [nbytes for _, _, nbytes in points]
    measured = all(row.devices[device].source is Source.MEASURED for _, row, _ in points)
    return Trend(
        bytes_per_iteration=theil_sen([ordinal for ordinal, _, _ in points], ends),
        first_iteration=points[0][1].index,
        last_iteration=points[-1][1].index,
        points=len(points),
        rising_share=float(np.mean(np.diff(ends) > 0)),
        source=Source.MEASURED if measured else Source.ESTIMATED,
    )


def line_growth(model: MemoryModel) -> list[LineGrowth]:
    """Follow what each line of source leaves alive from iteration to iteration.

    Args:
        model: A run.

    Returns:
        One entry per (location, op, device) that has anything alive at the end of a complete, watched
        iteration.
    """
    watched = [iteration for iteration in model.iterations if iteration.tracked and iteration.complete]
    if not watched:
        return []
    ends = _Ends(table_of(model.storages), watched, _kinds(model.iterations))
    return [ends.follow(rows) for rows in ends.groups()]


def _kinds(iterations: Sequence[IterationMemory]) -> list[str]:
    return [iteration.kind for iteration in iterations]


class _Ends:
    """The ends of watched iterations, and which storages are alive at them."""

    def __init__(self, storages: StorageTable, watched: Sequence[IterationMemory], kinds: Sequence[str]) -> None:
        self.storages = storages
        self.watched = watched
        self.kinds = kinds
        table = storages.lifetimes
        last_ticks = np.array([iteration.ticks[1] for iteration in watched], np.int64)
        indices = np.array([iteration.index for iteration in watched], np.int64)
        # A storage is alive at the ends numbered from `first` up to `stop`.
        first = np.searchsorted(last_ticks, table.birth_tick)
        stop = np.where(table.died, np.searchsorted(last_ticks, table.death_tick), len(watched))
        kept_on_purpose = [CATEGORIES.index(category) for category in _KEPT_ON_PURPOSE]
        self.rows = np.flatnonzero(
            (first < stop)
            & (storages.birth_iteration >= 0)
            & ~table.existing
            & ~np.isin(storages.category, kept_on_purpose)
        )
        self.first = first[self.rows].astype(np.int64)
        self.stop = stop[self.rows].astype(np.int64)
        self.birth_iteration = storages.birth_iteration[self.rows]
        # At the end of the iteration it was made in, a storage is no survivor yet.
        young = self.birth_iteration == indices[self.first]
        self.survives_from = self.first + young

    def groups(self) -> Iterator[IntArray]:
        """Places within `rows` that share location, op and device."""
        if not len(self.rows):
            return
        table = self.storages.lifetimes
        keys = np.stack((table.location[self.rows], table.op[self.rows], table.device[self.rows]))
        _, group_of = np.unique(keys, axis=1, return_inverse=True)
        group_of = group_of.reshape(-1)
        order = np.argsort(group_of, kind="stable")
        yield from np.split(order.astype(np.int64), np.flatnonzero(np.diff(group_of[order])) + 1)

    def follow(self, places: IntArray) -> LineGrowth:
        """Describe one group."""
        survivors = places[self.survives_from[places] < self.stop[places]]
        made_in = {self.kinds[row] for row in self.birth_iteration[survivors if len(survivors) else places]}
        columns = self._columns(made_in)
        surviving = self._sizes(survivors)[columns]
        numbers = [self.watched[column].index for column in columns.tolist()]
        table, row = self.storages.lifetimes, int(self.rows[places[0]])
        return LineGrowth(
            location=table.locations[int(table.location[row])],
            op=table.ops[int(table.op[row])],
            device=table.devices[int(table.device[row])],
            survivor_bytes_by_iteration=dict(zip(numbers, surviving.tolist(), strict=True)),
            rising=_is_rising(surviving),
        )

    def _columns(self, made_in: set[str]) -> IntArray:
        """The ends to look at for what was made in iterations of these kinds."""
        if len(made_in) == 1:
            wanted = [iteration.kind in made_in for iteration in self.watched]
        else:
            wanted = [iteration.kind != OTHER for iteration in self.watched]
        chosen = np.flatnonzero(wanted)
        return chosen if len(chosen) else np.arange(len(self.watched))

    def _sizes(self, survivors: IntArray) -> IntArray:
        """Bytes of survivors at each end."""
        weight = self.storages.lifetimes.nbytes[self.rows[survivors]]
        changes = np.zeros(len(self.watched) + 1, np.int64)
        np.add.at(changes, self.survives_from[survivors], weight)
        np.add.at(changes, self.stop[survivors], -weight)
        return np.cumsum(changes)[:-1]


def _is_rising(values: IntArray) -> bool:
    if len(values) < MIN_RISING:
        return False
    tail = values[-max(MIN_RISING, len(values) // 2) :]
    dips: BoolArray = np.diff(tail) < -RISING_TOLERANCE * tail.max()
    return not dips.any() and bool(tail[-1] > tail[0] * (1 + RISING_TOLERANCE))

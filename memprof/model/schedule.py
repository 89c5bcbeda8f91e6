"""When things happened: ticks, iterations, and which stretches of the run were watched.

Time is cut into slots: slot 0 is before the first tick, slot `i + 1` is the i-th tick, and the last one
is after the last finished tick (where a killed run was when it died).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memprof.model.lifetimes import BoolArray, IntArray, Lifetimes
from memprof.record.events import Tick, TickFlag
from memprof.record.iterations import Iteration, group

HEAD = 0


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The order of a run."""

    ticks: tuple[Tick, ...]
    iterations: tuple[Iteration, ...]
    tick_index: IntArray
    first_ticks: IntArray
    """First tick of each iteration."""
    watched: BoolArray
    """Per slot: every storage event was seen."""
    stretches: tuple[tuple[int, int], ...]
    """First and last slot of each run of watched slots."""
    complete: bool
    """In the first stretch the storages that were there before it are known too."""

    @property
    def slots(self) -> int:
        """Number of slots: the ticks and two more."""
        return len(self.ticks) + 2

    @property
    def tail(self) -> int:
        """The slot after the last tick."""
        return len(self.ticks) + 1

    def slot_of(self, ticks: IntArray) -> IntArray:
        """Slots of tick indices; a missing index belongs to the tick before it."""
        slot = np.searchsorted(self.tick_index, ticks, side="right").astype(np.int64)
        if self.ticks:
            slot[ticks > self.tick_index[-1]] = self.tail
        return slot

    def iteration_of(self, ticks: IntArray) -> IntArray:
        """Iterations of tick indices, -1 before the first tick and after the last."""
        slot = self.slot_of(ticks)
        iteration = np.searchsorted(self.first_ticks, ticks, side="right").astype(np.int64) - 1
        iteration[(slot == HEAD) | (slot == self.tail)] = -1
        return iteration

    def slots_of_iteration(self, iteration: Iteration) -> tuple[int, int]:
        """First and last slot of an iteration."""
        first, last = np.searchsorted(self.tick_index, [iteration.first_tick, iteration.last_tick])
        return int(first) + 1, int(last) + 1


def read_schedule(ticks: Sequence[Tick], lifetimes: Lifetimes, *, has_optimizer: bool) -> Schedule:
    """Work out iterations and watched stretches.

    Before the first tick and after the last the run was watched where the neighbouring tick was. A run
    without a finished tick was watched if it has births.

    Args:
        ticks: Finished ticks in order.
        lifetimes: Storages of the run.
        has_optimizer: Whether any optimizer existed during the run.

    Returns:
        The schedule.
    """
    ticks = tuple(ticks)
    iterations = tuple(group(ticks, has_optimizer=has_optimizer))
    tick_index = np.array([tick.index for tick in ticks], np.int64)
    tracked = [bool(tick.flags & TickFlag.TRACKED) for tick in ticks]
    head = tracked[0] if ticks else len(lifetimes) > 0
    tail = bool(ticks) and (tracked[-1] or bool(np.any(lifetimes.birth_tick > tick_index[-1])))
    watched = np.array([head, *tracked, tail], np.bool_)
    stretches = _runs(watched)
    begins_existing = bool(len(lifetimes)) and bool(lifetimes.existing[0])
    return Schedule(
        ticks=ticks,
        iterations=iterations,
        tick_index=tick_index,
        first_ticks=np.array([iteration.first_tick for iteration in iterations], np.int64),
        watched=watched,
        stretches=stretches,
        complete=bool(stretches) and (stretches[0][0] == HEAD or begins_existing),
    )


def with_blocks(schedule: Schedule) -> Schedule:
    """The schedule as a device sees it whose allocator history was recorded: those ticks are watched too.

    Args:
        schedule: The run's schedule.

    Returns:
        The same ticks and iterations.
    """
    flags = [bool(tick.flags & (TickFlag.BLOCKS | TickFlag.TRACKED)) for tick in schedule.ticks]
    first = next((slot for slot, tick in enumerate(schedule.ticks, start=1) if tick.flags & TickFlag.BLOCKS), None)
    watched = np.array([bool(schedule.watched[HEAD]), *flags, bool(schedule.watched[schedule.tail])], np.bool_)
    if first is None:
        return schedule
    return replace(schedule, watched=watched, stretches=_runs(watched), complete=True)


def _runs(flags: BoolArray) -> tuple[tuple[int, int], ...]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return tuple((int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True))

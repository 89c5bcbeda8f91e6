"""What one iteration still holds of the one before while its own forward runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memprof.model.lifetimes import BoolArray, IntArray
from memprof.model.memory import Category, IterationMemory, MemoryModel
from memprof.model.storages import CATEGORIES, StorageTable, table_of
from memprof.model.timeline import Timeline, read_timeline
from memprof.record.events import Phase, Tick

MAX_AGE = 2
"""What lives through more iterations than this is kept, not carried over."""

_CARRIED = (Category.ACTIVATION, Category.AUTOGRAD_DETAIL, None)


@dataclass(frozen=True, slots=True)
class CarriedOver:
    """Tensors of an earlier iteration that were alive throughout a forward up to its peak.

    Typically the output and the loss of the previous step, kept by the loop's variables until these
    are bound anew.
    """

    iteration: int
    """The iteration whose forward ran."""
    device: str
    nbytes: int
    """Bytes of `storages`."""
    storages: tuple[int, ...]
    """Their ids, oldest first."""


@dataclass(frozen=True, slots=True, eq=False)
class _Forward:
    """The first forward of an iteration: where it began, and where memory was highest in it."""

    start_tick: int
    start_ns: int
    peak_tick: int
    peak_ns: int


def carried_over(model: MemoryModel) -> list[CarriedOver]:
    """Find tensors that live on into the next iteration's forward for no longer than that.

    Counted are activations, autograd details and uncategorised storages made in an earlier iteration,
    alive from the start of the first forward to its highest moment, and freed in this iteration or the
    next, at most `MAX_AGE` iterations after they were made.

    Args:
        model: A run.

    Returns:
        One entry per watched iteration and device that has any, in order.
    """
    storages = table_of(model.storages)
    ticks = {tick.index: tick for tick in model.ticks}
    candidates = _candidates(storages)
    if not len(candidates):
        return []
    found: list[CarriedOver] = []
    for code, device in enumerate(storages.lifetimes.devices):
        rows = candidates[storages.lifetimes.device[candidates] == code]
        rows = rows[np.argsort(storages.death_iteration[rows], kind="stable")]
        dies_in = storages.death_iteration[rows]
        timeline = read_timeline(storages.lifetimes, device)
        for iteration in model.iterations:
            if iteration.tracked:
                first, last = np.searchsorted(dies_in, [iteration.index, iteration.index + 2])
                carried = _carried_into(iteration, storages, np.sort(rows[first:last]), timeline, ticks)
                if carried is not None:
                    found.append(carried)
    return sorted(found, key=lambda carried: (carried.iteration, carried.device))


def _candidates(storages: StorageTable) -> IntArray:
    age = storages.death_iteration - storages.birth_iteration
    return np.flatnonzero(
        storages.lifetimes.died
        & (storages.birth_iteration >= 0)
        & (age >= 1)
        & (age <= MAX_AGE)
        & np.isin(storages.category, [CATEGORIES.index(category) for category in _CARRIED])
    )


def _carried_into(
    iteration: IterationMemory,
    storages: StorageTable,
    dying: IntArray,
    timeline: Timeline,
    ticks: dict[int, Tick],
) -> CarriedOver | None:
    near = dying[storages.birth_iteration[dying] < iteration.index]
    forward = _first_forward(iteration, timeline, ticks) if len(near) else None
    if forward is None:
        return None
    table = storages.lifetimes
    born_before = _before(table.birth_tick[near], table.birth_ns[near], forward.start_tick, forward.start_ns)
    died_before = _before(table.death_tick[near], table.death_ns[near], forward.peak_tick, forward.peak_ns)
    carried = near[born_before & ~died_before]
    if not len(carried):
        return None
    return CarriedOver(
        iteration=iteration.index,
        device=timeline.device,
        nbytes=int(table.nbytes[carried].sum()),
        storages=tuple(table.id[carried].tolist()),
    )


def _before(ticks: IntArray, times_ns: IntArray, tick: int, time_ns: int) -> BoolArray:
    earlier: BoolArray = (ticks < tick) | ((ticks == tick) & (times_ns <= time_ns))
    return earlier


def _first_forward(iteration: IterationMemory, timeline: Timeline, ticks: dict[int, Tick]) -> _Forward | None:
    """The forward of the iteration's first tick that has one."""
    first, last = np.searchsorted(timeline.tick, [iteration.ticks[0], iteration.ticks[1] + 1])
    forward = first + np.flatnonzero(timeline.phase[first:last] == int(Phase.FORWARD))
    if not len(forward):
        return None
    tick = int(timeline.tick[forward[0]])
    forward = forward[timeline.tick[forward] == tick]
    began_ns = int(timeline.time_ns[forward[0]])
    if tick in ticks:
        starts = [sample.time_ns for sample in ticks[tick].samples if sample.phase == Phase.FORWARD and not sample.ends]
        began_ns = min([began_ns, *starts])
    # Where memory is highest before a free, that moment is just before it.
    born = forward[timeline.born[forward]]
    if not len(born):
        return _Forward(tick, began_ns, tick, began_ns)
    peak = int(born[np.argmax(timeline.running[born + 1])])
    return _Forward(tick, began_ns, tick, int(timeline.time_ns[peak]))

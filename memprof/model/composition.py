"""Bytes by category over watched time, thinned out to what a plot can show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memprof.model.levels import Levels
from memprof.model.lifetimes import BoolArray, IntArray
from memprof.model.memory import CompositionPoint
from memprof.model.schedule import Schedule
from memprof.model.storages import CATEGORIES, CATEGORY_NAMES, StorageTable
from memprof.record.events import Phase

MAX_POINTS = 4000


def compose(schedule: Schedule, levels: Levels, storages: StorageTable) -> tuple[CompositionPoint, ...]:
    """Follow the composition of a device's memory through watched time.

    Args:
        schedule: Ticks and watched stretches.
        levels: Allocated bytes of the device.
        storages: All storages, with categories.

    Returns:
        At most `MAX_POINTS` points in order of time, each naming every category. Phase boundaries and
        local maxima are kept first.
    """
    if not levels.watched.any():
        return ()
    position, tick, time_ns, phase, boundary = _moments(schedule, levels)
    chosen = _thin(levels.timeline.running[position], boundary)
    sums = _sums(levels, storages, position[chosen])
    iterations = schedule.iteration_of(tick[chosen])
    phases = tuple(Phase)
    return tuple(
        CompositionPoint(
            time_ns=row_time,
            iteration=iteration if iteration >= 0 else None,
            phase=phases[row_phase],
            by_category=dict(zip(CATEGORY_NAMES, row_sums, strict=True)),
        )
        for row_time, iteration, row_phase, row_sums in zip(
            time_ns[chosen].tolist(),
            iterations.tolist(),
            phase[chosen].tolist(),
            sums.tolist(),
            strict=True,
        )
    )


def _moments(schedule: Schedule, levels: Levels) -> tuple[IntArray, IntArray, IntArray, IntArray, BoolArray]:
    """Position, tick, time and phase of every moment worth a point, and whether it is a boundary."""
    timeline, samples = levels.timeline, levels.samples
    events = np.flatnonzero(levels.watched)
    sampled = np.flatnonzero(schedule.watched[samples.slot])
    slots = np.flatnonzero(schedule.watched[1:-1]) + 1
    ticks = [schedule.ticks[slot - 1] for slot in slots.tolist()]
    edge_tick = np.repeat(np.array([tick.index for tick in ticks], np.int64), 2)
    edge_time = np.array([[tick.start_ns, tick.end_ns] for tick in ticks], np.int64).reshape(-1)
    edge_position = np.stack((levels.bounds[slots], levels.bounds[slots + 1]), axis=1).reshape(-1)
    position = np.concatenate((events + 1, levels.sample_position[sampled], edge_position))
    tick = np.concatenate((timeline.tick[events], samples.tick[sampled], edge_tick))
    time_ns = np.concatenate((timeline.time_ns[events], samples.time_ns[sampled], edge_time))
    phase = np.concatenate((timeline.phase[events], samples.phase[sampled], np.zeros_like(edge_tick)))
    last_of_phase = np.append(np.diff(timeline.phase[events]) != 0, True)
    boundary = np.concatenate((last_of_phase, np.ones(len(sampled) + len(edge_tick), np.bool_)))
    order = np.lexsort((position, time_ns, tick))
    return position[order], tick[order], time_ns[order], phase[order], boundary[order]


def _thin(level: IntArray, boundary: BoolArray) -> NDArray[np.intp]:
    """Indices of the moments to keep, ascending."""
    if len(level) <= MAX_POINTS:
        return np.arange(len(level))
    kept = np.flatnonzero(boundary)
    if len(kept) > MAX_POINTS // 2:
        kept = kept[np.linspace(0, len(kept) - 1, MAX_POINTS // 2).astype(np.intp)]
    buckets = np.linspace(0, len(level), MAX_POINTS - len(kept) + 1).astype(np.intp)[:-1]
    highest = np.maximum.reduceat(level, buckets)
    widths = np.diff(np.append(buckets, len(level)))
    place = np.where(level == np.repeat(highest, widths), np.arange(len(level)), len(level))
    return np.union1d(kept, np.minimum.reduceat(place, buckets))


def _sums(levels: Levels, storages: StorageTable, position: IntArray) -> IntArray:
    """Bytes by category at each position."""
    timeline = levels.timeline
    order = np.argsort(position, kind="stable")
    included_from = np.searchsorted(position[order], np.arange(1, len(timeline) + 1))
    changes = np.zeros((len(position) + 1, len(CATEGORIES)), np.int64)
    np.add.at(changes, (included_from, storages.category[timeline.row]), timeline.delta)
    sums = np.empty((len(position), len(CATEGORIES)), np.int64)
    sums[order] = np.cumsum(changes, axis=0)[:-1]
    return sums

"""How many bytes were allocated when: storage events and sampled counters brought together.

Where every storage is known, the sum of live storages is the answer on a CPU. Counters of the whole
process are calibrated against it and carry the answer through stretches that were not watched. A
caching allocator's counter is exact by itself; there the events fill in what happened between samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memprof.model.lifetimes import BoolArray, IntArray
from memprof.model.samples import UNKNOWN, Samples
from memprof.model.schedule import Schedule
from memprof.model.timeline import Timeline


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Allocated bytes of one device at every event and every sample."""

    timeline: Timeline
    samples: Samples
    exact_counter: bool
    """The samples count tensors only, with a peak counter."""
    event_slot: IntArray
    bounds: IntArray
    """The events of slot `s` are those from `bounds[s]` up to `bounds[s + 1]`."""
    watched: BoolArray
    """Per event: it lies in watched time, where `before` and `after` mean something."""
    before: IntArray
    """Allocated bytes just before each event."""
    after: IntArray
    """Allocated bytes just after each event."""
    slot_start: IntArray
    """Per watched slot: allocated bytes at its start, by events."""
    slot_measured: BoolArray
    """Per slot: its figures are measured, not estimated."""
    sample_position: IntArray
    sample_bytes: IntArray
    """Allocated bytes at each sample, calibrated."""


def read_levels(schedule: Schedule, timeline: Timeline, samples: Samples, *, process_counter: bool) -> Levels:
    """Bring events and counters of a device together.

    Args:
        schedule: Ticks and watched stretches.
        timeline: Storage events of the device.
        samples: Counters of the device.
        process_counter: The counters see the whole process, not only tensors.

    Returns:
        Allocated bytes wherever they can be told.
    """
    event_slot = schedule.slot_of(timeline.tick)
    positions = timeline.positions(samples.tick, samples.time_ns)
    first_stretch = np.zeros(schedule.slots, np.bool_)
    if schedule.complete:
        first, last = schedule.stretches[0]
        first_stretch[first : last + 1] = True
    bounds = np.searchsorted(event_slot, np.arange(schedule.slots + 1)).astype(np.int64)
    counted = samples.allocated
    if process_counter and len(samples):
        counted = np.maximum(counted - _offset(schedule, timeline, samples, positions, bounds), 0)
    start, before, after = _anchored(timeline, samples, positions, counted, bounds)
    if process_counter or not len(samples):
        # Every storage is known in the first stretch: their sum is the answer, and needs no counter.
        summed = first_stretch if len(samples) else np.ones(schedule.slots, np.bool_)
        running = timeline.running
        start = np.where(summed, running[bounds[:-1]], start)
        before = np.where(summed[event_slot], running[:-1], before)
        after = np.where(summed[event_slot], running[1:], after)
        counted = np.where(summed[samples.slot], running[positions], counted)
        slot_measured = first_stretch
    else:
        slot_measured = schedule.watched.copy()
        slot_measured[samples.slot] = True
    ceiling = _ceiling(timeline, samples, positions)
    return Levels(
        timeline=timeline,
        samples=samples,
        exact_counter=not process_counter and len(samples) > 0,
        event_slot=event_slot,
        bounds=bounds,
        watched=schedule.watched[event_slot],
        before=np.clip(before, 0, ceiling),
        after=np.clip(after, 0, ceiling),
        slot_start=np.maximum(start, 0),
        slot_measured=slot_measured,
        sample_position=positions,
        sample_bytes=counted,
    )


def _offset(schedule: Schedule, timeline: Timeline, samples: Samples, positions: IntArray, bounds: IntArray) -> int:
    """What the process has allocated apart from tensors, in bytes."""
    if not schedule.complete:
        # Nothing to compare with: figures become growth since the start of the run.
        return int(samples.allocated[0])
    first, last = schedule.stretches[0]
    after = int(np.searchsorted(samples.slot, last, side="right"))
    if after and samples.slot[after - 1] >= first:
        known = int(timeline.running[positions[after - 1]])
        return int(samples.allocated[after - 1]) - known
    # The stretch itself was not sampled; the next sample is the nearest to its end.
    nearest = min(after, len(samples) - 1)
    return int(samples.allocated[nearest]) - int(timeline.running[bounds[last + 1]])


def _last_sample(timeline: Timeline, positions: IntArray) -> IntArray:
    """Last sample taken before each event, -1 where there is none."""
    order = np.maximum.accumulate(positions)
    return np.searchsorted(order, np.arange(len(timeline)), side="right").astype(np.int64) - 1


def _anchored(
    timeline: Timeline, samples: Samples, positions: IntArray, counted: IntArray, bounds: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Bytes at the start of each slot, before and after each event: the last sample and what followed.

    Every sample is a fresh start: what was born unwatched and dies in a watched stretch is not seen to
    die, and would be counted for ever.
    """
    flow = timeline.flow
    if not len(samples):
        return flow[bounds[:-1]], flow[:-1], flow[1:]
    shift = counted - flow[positions]
    at_slot = np.searchsorted(samples.slot, np.arange(len(bounds) - 1)) - 1
    start = flow[bounds[:-1]] + shift[np.maximum(at_slot, 0)]
    event_shift = shift[np.maximum(_last_sample(timeline, positions), 0)]
    return start, flow[:-1] + event_shift, flow[1:] + event_shift


def _ceiling(timeline: Timeline, samples: Samples, positions: IntArray) -> IntArray:
    """What the next reading of the peak counter says each event can at most have reached."""
    unbounded = np.iinfo(np.int64).max
    bound = samples.peak.copy()
    # A counter that fell was reset, and says nothing of the time before.
    bound[(bound == UNKNOWN) | (np.diff(bound, prepend=bound[:1]) < 0)] = unbounded
    ceiling: IntArray = np.append(bound, unbounded)[_last_sample(timeline, positions) + 1]
    return ceiling

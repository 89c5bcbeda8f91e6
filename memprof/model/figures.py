"""What each slot of the run did to the memory of one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from memprof.model.levels import Levels
from memprof.model.samples import UNKNOWN, phase_between
from memprof.model.schedule import HEAD, Schedule
from memprof.record.events import Phase


class Moment(NamedTuple):
    """A level of allocated memory that was reached."""

    nbytes: int
    phase: Phase
    time_ns: int | None
    position: int | None
    """Where it lies in the device's timeline; None where storages were not watched."""


@dataclass(slots=True)
class SlotFigures:
    """Memory of one device during one slot, in bytes; None is unknown."""

    start: int | None = None
    end: int | None = None
    peaks: dict[Phase, Moment] = field(default_factory=dict)
    """The highest moment of each phase."""
    measured: bool = False
    """`start` and `end` are measured."""
    seen: bool = False
    """Every storage event was seen, so the peaks are what was reached between samples too."""
    proven: bool = False
    """The device's peak counter rose, so the highest peak is exact."""

    @property
    def peak(self) -> Moment | None:
        """The highest moment, the earliest of equals."""
        return max(self.peaks.values(), key=_height, default=None)

    def reach(self, moment: Moment) -> None:
        """Take a moment into account."""
        known = self.peaks.get(moment.phase)
        if known is None or _height(moment) > _height(known):
            self.peaks[moment.phase] = moment


def _height(moment: Moment) -> tuple[int, float]:
    return moment.nbytes, -np.inf if moment.time_ns is None else -moment.time_ns


def slot_figures(schedule: Schedule, levels: Levels) -> list[SlotFigures]:
    """Work out start, end and peaks of every slot.

    Args:
        schedule: The slots.
        levels: Allocated bytes of the device.

    Returns:
        One entry per slot.
    """
    figures = [SlotFigures() for _ in range(schedule.slots)]
    for slot in np.flatnonzero(schedule.watched).tolist():
        if len(levels.timeline):
            first, last = int(levels.bounds[slot]), int(levels.bounds[slot + 1])
            figures[slot].start = int(levels.slot_start[slot])
            figures[slot].end = int(levels.after[last - 1]) if last > first else figures[slot].start
            figures[slot].seen = True
    _take_samples(schedule, levels, figures)
    _take_events(levels, figures)
    if levels.exact_counter:
        _take_peak_counter(schedule, levels, figures)
    for slot in np.flatnonzero(levels.slot_measured).tolist():
        figures[slot].measured = True
    return figures


def _take_samples(schedule: Schedule, levels: Levels, figures: list[SlotFigures]) -> None:
    samples = levels.samples
    rows = zip(
        samples.slot.tolist(),
        samples.phase.tolist(),
        samples.time_ns.tolist(),
        levels.sample_position.tolist(),
        levels.sample_bytes.tolist(),
        strict=True,
    )
    watched, bounds = schedule.watched.tolist(), levels.bounds.tolist()
    sampled: set[int] = set()
    phases = tuple(Phase)
    for slot, phase, time_ns, position, nbytes in rows:
        figure = figures[slot]
        figure.reach(Moment(nbytes, phases[phase], time_ns, position if watched[slot] else None))
        # Where storages were watched, events tell what happened before the first sample of a slot and
        # after its last; there a sample counts only if nothing did.
        if slot not in sampled and (not watched[slot] or position <= bounds[slot]):
            figure.start = nbytes
        if not watched[slot] or position >= bounds[slot + 1]:
            figure.end = nbytes
        sampled.add(slot)


def _take_events(levels: Levels, figures: list[SlotFigures]) -> None:
    timeline = levels.timeline
    events = np.flatnonzero(levels.watched)
    if not len(events):
        return
    slot, phase = levels.event_slot[events], timeline.phase[events]
    before, after = levels.before[events], levels.after[events]
    highest = np.maximum(before, after)
    starts = np.flatnonzero(np.append(True, (np.diff(slot) != 0) | (np.diff(phase) != 0)))
    reached = np.maximum.reduceat(highest, starts)
    lengths = np.diff(np.append(starts, len(events)))
    place = np.where(highest == np.repeat(reached, lengths), np.arange(len(events)), len(events))
    first = np.minimum.reduceat(place, starts)
    # The level before an event is the one after the event that came before.
    position = events[first] + (after[first] >= before[first])
    phases = tuple(Phase)
    for row_slot, row_phase, nbytes, time_ns, row_position in zip(
        slot[starts].tolist(),
        phase[starts].tolist(),
        reached.tolist(),
        timeline.time_ns[events[first]].tolist(),
        position.tolist(),
        strict=True,
    ):
        figures[row_slot].reach(Moment(nbytes, phases[row_phase], time_ns, row_position))


def _take_peak_counter(schedule: Schedule, levels: Levels, figures: list[SlotFigures]) -> None:
    """Use that a rise of the peak counter between two samples proves a peak of exactly that size."""
    samples = levels.samples
    if samples.peak[0] > samples.allocated[0]:
        figures[HEAD].reach(Moment(int(samples.peak[0]), Phase.OTHER, None, None))
        figures[HEAD].measured = figures[HEAD].proven = True
    steps = np.diff(samples.peak)
    # A counter that fell was reset in between, and tells the highest level since.
    reset = (steps < 0) & (samples.peak[1:] > samples.allocated[1:])
    proofs = np.flatnonzero(((steps > 0) | reset) & (samples.peak[:-1] != UNKNOWN)) + 1
    for later in proofs.tolist():
        slot, phase = int(samples.slot[later]), phase_between(samples, later)
        position, time_ns = None, None
        if schedule.watched[slot]:
            position, time_ns = _highest_between(levels, later)
        figures[slot].reach(Moment(int(samples.peak[later]), phase, time_ns, position))
        figures[slot].proven = True


def _highest_between(levels: Levels, later: int) -> tuple[int, int]:
    """Position and time of the highest level by events between a sample and the one before it."""
    last = int(levels.sample_position[later])
    first = min(int(levels.sample_position[later - 1]), last)
    if first == last:
        return last, int(levels.samples.time_ns[later])
    event = first + int(np.argmax(levels.after[first:last]))
    if levels.after[event] >= levels.before[first]:
        return event + 1, int(levels.timeline.time_ns[event])
    return first, int(levels.timeline.time_ns[first])

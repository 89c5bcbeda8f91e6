"""What each iteration did to memory, put together from its ticks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

from memprof.model.figures import Moment, SlotFigures
from memprof.model.memory import DeviceIteration, IterationMemory, Source
from memprof.model.samples import UNKNOWN, Samples
from memprof.model.schedule import HEAD, Schedule
from memprof.record.events import Phase
from memprof.record.iterations import OTHER


class PeakCandidate(NamedTuple):
    """The peak of one stretch of a run."""

    iteration: int | None
    """None for the time before the first iteration or after the last."""
    moment: Moment
    source: Source


@dataclass(frozen=True, slots=True, eq=False)
class _Typical:
    """How a typical tracked iteration of one kind rises above its start."""

    peak: int
    phase: Phase
    phase_peaks: Mapping[Phase, int]


def device_iterations(
    schedule: Schedule, figures: Sequence[SlotFigures], samples: Samples, *, process_counter: bool
) -> tuple[list[DeviceIteration], list[PeakCandidate]]:
    """Put the ticks of each iteration together for one device.

    Args:
        schedule: The iterations.
        figures: What each slot did.
        samples: Counters of the device.
        process_counter: The counters see the whole process, so peaks that were not watched are
            estimated from those that were.

    Returns:
        Memory of each iteration, and the peaks to choose the run's peak from.
    """
    merged = [_merge(figures, *schedule.slots_of_iteration(iteration)) for iteration in schedule.iterations]
    typical = _typical(schedule, merged) if process_counter else {}
    reserved = _reserved_at_end(schedule, samples)
    rows: list[DeviceIteration] = []
    candidates: list[PeakCandidate] = []
    for iteration, figure in zip(schedule.iterations, merged, strict=True):
        peak_source = _source(figure.measured and (figure.seen or figure.proven))
        if not figure.seen and iteration.kind in typical:
            _estimate(figure, typical[iteration.kind])
        peak = _peak(figure)
        source = _source(figure.measured)
        rows.append(
            DeviceIteration(
                allocated_bytes_start=figure.start,
                allocated_bytes_end=figure.end,
                peak_allocated_bytes=None if peak is None else peak.nbytes,
                peak_phase=None if figure.peak is None else figure.peak.phase,
                phase_peaks={phase: figure.peaks[phase].nbytes for phase in sorted(figure.peaks)},
                reserved_bytes_end=reserved[iteration.index],
                source=source,
                peak_source=None if peak_source == source else peak_source,
            )
        )
        if peak is not None:
            candidates.append(PeakCandidate(iteration.index, peak, peak_source))
    for slot in (HEAD, schedule.tail):
        outside = _peak(figures[slot])
        if outside is not None:
            candidates.append(PeakCandidate(None, outside, _source(figures[slot].measured)))
    return rows, candidates


def join_devices(schedule: Schedule, by_device: Mapping[str, Sequence[DeviceIteration]]) -> tuple[IterationMemory, ...]:
    """Join what all devices did during each iteration.

    Args:
        schedule: The iterations.
        by_device: Device -> its memory per iteration.

    Returns:
        One entry per iteration.
    """
    return tuple(
        IterationMemory(
            index=iteration.index,
            kind=iteration.kind,
            start_ns=iteration.start_ns,
            end_ns=iteration.end_ns,
            epoch=iteration.epoch,
            tracked=iteration.tracked,
            complete=iteration.complete,
            devices={device: rows[position] for device, rows in by_device.items()},
            ticks=(iteration.first_tick, iteration.last_tick),
        )
        for position, iteration in enumerate(schedule.iterations)
    )


def usual_duration_ns(iterations: Sequence[IterationMemory]) -> int | None:
    """Median duration of the complete iterations among some; of those in which storages were not watched, if any."""
    complete = [item for item in iterations if item.complete]
    chosen = [item for item in complete if not item.tracked] or complete
    return round(median(item.duration_ns for item in chosen)) if chosen else None


def _source(measured: bool) -> Source:
    return Source.MEASURED if measured else Source.ESTIMATED


def _peak(figure: SlotFigures) -> Moment | None:
    """The highest moment, or start or end where nothing else is known."""
    levels = [level for level in (figure.start, figure.end) if level is not None]
    if figure.peak is not None and figure.peak.nbytes >= max(levels, default=0):
        return figure.peak
    return Moment(max(levels), Phase.OTHER, None, None) if levels else None


def _merge(figures: Sequence[SlotFigures], first: int, last: int) -> SlotFigures:
    slots = figures[first : last + 1]
    merged = SlotFigures(
        start=slots[0].start,
        end=slots[-1].end,
        measured=all(slot.measured for slot in slots),
        seen=all(slot.seen for slot in slots),
        proven=any(slot.proven for slot in slots),
    )
    for slot in slots:
        for moment in slot.peaks.values():
            merged.reach(moment)
    return merged


def _typical(schedule: Schedule, merged: Sequence[SlotFigures]) -> dict[str, _Typical]:
    """The iteration with the median rise among the watched ones of each kind.

    Code outside loops (`other`) has no typical rise: loading data says nothing about what follows training.
    """
    rises: dict[str, list[tuple[int, int]]] = {}
    for position, (iteration, figure) in enumerate(zip(schedule.iterations, merged, strict=True)):
        usable = iteration.kind != OTHER and iteration.complete and figure.seen
        if usable and figure.start is not None and figure.peak is not None:
            rises.setdefault(iteration.kind, []).append((figure.peak.nbytes - figure.start, position))
    found: dict[str, _Typical] = {}
    for kind, rows in rises.items():
        rows.sort()
        rise, position = rows[(len(rows) - 1) // 2]
        figure = merged[position]
        if figure.start is not None and figure.peak is not None:
            start = figure.start
            phase_rises = {phase: moment.nbytes - start for phase, moment in figure.peaks.items()}
            found[kind] = _Typical(rise, figure.peak.phase, phase_rises)
    return found


def _estimate(figure: SlotFigures, typical: _Typical) -> None:
    """Assume that an unwatched iteration rises above its start as the typical one does."""
    if figure.start is None:
        return
    for phase, rise in typical.phase_peaks.items():
        figure.reach(Moment(max(0, figure.start + rise), phase, None, None))


def _reserved_at_end(schedule: Schedule, samples: Samples) -> list[int | None]:
    """Last sampled reserved bytes within each iteration."""
    known = np.flatnonzero(samples.reserved != UNKNOWN)
    slots = samples.slot[known]
    found: list[int | None] = []
    for iteration in schedule.iterations:
        first, last = schedule.slots_of_iteration(iteration)
        row = int(np.searchsorted(slots, last, side="right")) - 1
        found.append(int(samples.reserved[known[row]]) if row >= 0 and slots[row] >= first else None)
    return found

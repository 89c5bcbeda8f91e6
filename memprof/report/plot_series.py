"""The numbers behind a plot: what is known of each iteration, watched windows, and thinning.

Knows nothing of drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memprof.model.memory import CompositionPoint, IterationMemory, MemoryModel, Trend
from memprof.record.events import Phase

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]


def thin(values: FloatArray, limit: int) -> IndexArray:
    """Choose the points of a curve to draw so that no extreme is lost.

    Args:
        values: The curve; NaN is unknown.
        limit: About how many points to keep, at least 4.

    Returns:
        Ascending indices: the first and last point, the largest and the smallest of each stretch, and
        one unknown point of each stretch that has any, so that gaps stay gaps.
    """
    if len(values) <= limit:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), max(limit // 3, 1) + 1).astype(np.intp)
    kept = {0, len(values) - 1}
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        stretch = values[first:last]
        unknown = np.isnan(stretch)
        if unknown.any():
            kept.add(first + int(unknown.argmax()))
        if not unknown.all():
            kept.add(first + int(np.nanargmax(stretch)))
            kept.add(first + int(np.nanargmin(stretch)))
    return np.array(sorted(kept), np.intp)


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of a line; NaN leaves a gap."""

    x: FloatArray
    nbytes: FloatArray

    @classmethod
    def of(cls, points: Sequence[tuple[int, int | None]], limit: int) -> Curve:
        """Make a curve and thin it.

        Args:
            points: Iteration index and bytes; None is unknown.
            limit: About how many points to keep.

        Returns:
            The curve.
        """
        x = np.array([index for index, _ in points], np.float64)
        nbytes = np.array([np.nan if value is None else value for _, value in points], np.float64)
        kept = thin(nbytes, limit)
        return cls(x[kept], nbytes[kept])

    def isolated(self) -> list[int]:
        """Indices of the known points between two gaps, which a line alone would not show."""
        known = np.pad(np.isfinite(self.nbytes), 1, constant_values=False)
        return [int(n) for n in np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])]

    @property
    def is_known(self) -> bool:
        """Whether there is anything to draw."""
        return bool(np.isfinite(self.nbytes).any())


def end_curve(iterations: Sequence[IterationMemory], device: str, limit: int) -> Curve:
    """Follow what was allocated when each iteration ended.

    Args:
        iterations: All iterations.
        device: The device.
        limit: About how many points to keep.

    Returns:
        The curve, with gaps where it is unknown.
    """
    points = [(i.index, i.devices[device].allocated_bytes_end if device in i.devices else None) for i in iterations]
    return Curve.of(points, limit)


def phase_curve(iterations: Sequence[IterationMemory], device: str, phase: Phase, limit: int) -> Curve:
    """Follow the peaks of one phase.

    Args:
        iterations: All iterations.
        device: The device.
        phase: The phase.
        limit: About how many points to keep.

    Returns:
        The curve; iterations that had no such phase are passed over, unknown ones leave a gap.
    """
    points: list[tuple[int, int | None]] = []
    for iteration in iterations:
        memory = iteration.devices.get(device)
        if memory is None or not memory.phase_peaks:
            points.append((iteration.index, None))
        elif phase in memory.phase_peaks:
            points.append((iteration.index, memory.phase_peaks[phase]))
    return Curve.of(points, limit)


def growth_line(iterations: Sequence[IterationMemory], device: str, trend: Trend) -> Curve | None:
    """Place the line of a trend among the iterations it was taken from.

    Args:
        iterations: All iterations.
        device: The device.
        trend: Its slope.

    Returns:
        Two points, or None where no iteration of the trend is known. The height is the median of what
        is left after the slope, the intercept that belongs to a Theil-Sen slope.
    """
    if not np.isfinite(trend.bytes_per_iteration):
        return None
    inside = [each for each in iterations if trend.first_iteration <= each.index <= trend.last_iteration]
    alike = [each for each in inside if each.kind == inside[0].kind]
    rests = [
        end - trend.bytes_per_iteration * place
        for place, iteration in enumerate(alike)
        if device in iteration.devices and (end := iteration.devices[device].allocated_bytes_end) is not None
    ]
    if not rests:
        return None
    x = np.array([trend.first_iteration, trend.last_iteration], np.float64)
    rise = trend.bytes_per_iteration * np.array([0, len(alike) - 1], np.float64)
    return Curve(x, float(np.median(rests)) + rise)


def stretches(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Find the unbroken stretches of True.

    Args:
        flags: One value an iteration.

    Returns:
        Pairs of first and last position.
    """
    found: list[tuple[int, int]] = []
    for position, flag in enumerate(flags):
        if not flag:
            continue
        if found and found[-1][1] == position - 1:
            found[-1] = (found[-1][0], position)
        else:
            found.append((position, position))
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """An unbroken stretch in which storages were watched."""

    first: int
    """Position of its first iteration, or 0 without iterations."""
    last: int
    x: FloatArray
    """Position of each point; iteration `n` spans `n - 0.5` to `n + 0.5`. Seconds without iterations."""
    points: tuple[CompositionPoint, ...]


def watched_windows(model: MemoryModel, device: str, limit: int) -> list[Window]:
    """Split the composition of a device at the places where storages were not watched.

    Args:
        model: The model of the run.
        device: The device.
        limit: About how many points to keep in all.

    Returns:
        Windows in order of time; one window on a time axis where there are no iterations.
    """
    points = model.composition.get(device, ())
    if not points:
        return []
    if not model.iterations:
        seconds = np.array([(point.time_ns - points[0].time_ns) / 1e9 for point in points])
        return [_window(0, 0, seconds, points, limit)]
    x = _positions(model.iterations, points)
    cells = np.clip(np.rint(x), 0, len(model.iterations) - 1).astype(np.intp)
    has_points = set(cells.tolist())
    watched = [i.tracked or position in has_points for position, i in enumerate(model.iterations)]
    windows = []
    for first, last in stretches(watched):
        inside = np.flatnonzero((cells >= first) & (cells <= last))
        if len(inside):
            share = max(limit * len(inside) // len(points), 60)
            chosen = [points[n] for n in inside.tolist()]
            windows.append(_window(first, last, x[inside], chosen, share))
    return windows


def _window(first: int, last: int, x: FloatArray, points: Sequence[CompositionPoint], limit: int) -> Window:
    totals = np.array([sum(point.by_category.values()) for point in points], np.float64)
    kept = thin(totals, limit)
    return Window(first, last, x[kept], tuple(points[n] for n in kept.tolist()))


def _positions(iterations: Sequence[IterationMemory], points: Sequence[CompositionPoint]) -> FloatArray:
    """Place points among the iterations by time; a point never leaves the iteration it names."""
    times = np.array([(i.start_ns, i.end_ns) for i in iterations], np.int64)
    origin = times[0, 0]
    edges = np.arange(len(iterations), dtype=np.float64)[:, None] + np.array([-0.5, 0.5])
    point_ns = np.array([point.time_ns for point in points], np.int64) - origin
    x = np.interp(point_ns.astype(np.float64), (times - origin).astype(np.float64).ravel(), edges.ravel())
    position_of = {iteration.index: position for position, iteration in enumerate(iterations)}
    named = np.array([-1 if p.iteration is None else position_of.get(p.iteration, -1) for p in points], np.float64)
    # Just inside the edges, so that rounding finds the same iteration again.
    clamped = np.clip(x, named - 0.499, named + 0.499)
    return np.maximum.accumulate(np.where(named >= 0, clamped, x))

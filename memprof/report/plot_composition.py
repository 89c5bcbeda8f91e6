"""The lower panel of a plot: composition by category, with gaps where storages were not watched."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from memprof.model.memory import IterationMemory, MemoryModel
from memprof.report.plot_memory import least_direct_source, say_nothing, unit_for
from memprof.report.plot_series import FloatArray, Window, watched_windows
from memprof.report.plot_style import CATEGORY_COLOURS, INK, MUTED, drawable, panel_title, side_legend
from memprof.report.wording import source_suffix

_POINTS = 2400
_GAP_SHARE = 0.055
"""Width of a gap as a share of what was watched; a gap of 10,000 iterations must not hide the rest."""
_ALL_GAPS_SHARE = 0.35
_TICKS = 14
_MAX_NAMED_GAPS = 8


def draw_composition(axes: Axes, model: MemoryModel, device: str) -> bool:
    """Draw what the memory of one device was made of.

    Args:
        axes: Where to draw.
        model: The model of the run.
        device: The device.

    Returns:
        Whether there are stretches in which storages were not watched.
    """
    source = source_suffix(least_direct_source(model, device, tracked_only=True))
    title = f"Memory of {device} over the trace" if model.snapshot else f"What the memory of {device} was made of"
    panel_title(axes, drawable(f"{title}{source}"))
    if model.snapshot and not any(item.device == device and item.trace_entries for item in model.snapshot):
        say_nothing(axes, "the snapshot has no trace of this device")
        return False
    windows = watched_windows(model, device, _POINTS)
    if not windows or not any(point.by_category for window in windows for point in window.points):
        say_nothing(axes, "storages were not watched, so the composition is unknown")
        return False
    tables = [_table(window) for window in windows]
    high = max(float(table.sum(axis=0).max()) for table in tables)
    unit, factor = unit_for(high)
    axes.set_ylim(0.0, high * 1.06 / factor if high > 0 else 1.0)
    axes.set_ylabel(f"allocated, {unit}", fontsize=10, color=INK, labelpad=6)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if not model.iterations:
        _areas(axes, [window.x for window in windows], tables, factor, step="post" if model.snapshot else None)
        axes.set_xlim(0.0, float(windows[-1].x[-1]) or 1.0)
        axes.set_xlabel("time, s", fontsize=10, color=INK, labelpad=3)
        side_legend(axes)
        return False
    layout = _Layout.of(windows, len(model.iterations))
    # The composition last known holds to the edges of its window.
    tables = [np.pad(table, ((0, 0), (1, 1)), mode="edge") for table in tables]
    xs = [
        np.concatenate(([place.x_of(place.first - 0.5)], place.x_of(0) + window.x, [place.x_of(place.last + 0.5)]))
        for window, place in zip(windows, layout.windows, strict=True)
    ]
    _areas(axes, xs, tables, factor)
    _gaps(axes, layout, model.iterations)
    axes.set_xlim(0.0, layout.width)
    _ticks(axes, layout, model.iterations)
    side_legend(axes)
    return bool(layout.gaps)


class _Stretch(NamedTuple):
    """A run of iterations, and where it starts on the axis."""

    first: int
    last: int
    start: float

    def x_of(self, position: float) -> float:
        """Where the middle of an iteration lies on the axis."""
        return self.start + position - self.first + 0.5


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where each window and each gap lies on an axis on which gaps are cut short."""

    windows: tuple[_Stretch, ...]
    gaps: tuple[_Stretch, ...]
    gap_width: float
    width: float

    @classmethod
    def of(cls, windows: Sequence[Window], iterations: int) -> _Layout:
        watched = sum(window.last - window.first + 1 for window in windows)
        runs: list[tuple[int, int, bool]] = []
        after = 0
        for window in windows:
            if window.first > after:
                runs.append((after, window.first - 1, False))
            runs.append((window.first, window.last, True))
            after = window.last + 1
        if after < iterations:
            runs.append((after, iterations - 1, False))
        gap_count = len(runs) - len(windows)
        gap_width = min(_GAP_SHARE, _ALL_GAPS_SHARE / gap_count) * watched if gap_count else 0.0
        placed_windows: list[_Stretch] = []
        placed_gaps: list[_Stretch] = []
        x = 0.0
        for first, last, is_window in runs:
            (placed_windows if is_window else placed_gaps).append(_Stretch(first, last, x))
            x += last - first + 1 if is_window else gap_width
        return cls(tuple(placed_windows), tuple(placed_gaps), gap_width, x)


def _table(window: Window) -> FloatArray:
    """Bytes by category (rows, in the order of `CATEGORY_COLOURS`) and point (columns)."""
    rows = [[point.by_category.get(name, 0) for point in window.points] for name in CATEGORY_COLOURS]
    return np.array(rows, np.float64)


def _areas(
    axes: Axes,
    xs: Sequence[FloatArray],
    tables: Sequence[FloatArray],
    factor: int,
    step: Literal["post"] | None = None,
) -> None:
    """Stack the areas, window by window; the legend reads from top to bottom as the stack does."""
    for number, name in reversed(list(enumerate(CATEGORY_COLOURS))):
        if not any(table[number].any() for table in tables):
            continue
        label: str | None = name
        for x, table in zip(xs, tables, strict=True):
            lower = table[:number].sum(axis=0) / factor
            axes.fill_between(
                x, lower, lower + table[number] / factor, facecolor=CATEGORY_COLOURS[name], edgecolor="none",
                linewidth=0, label=label, zorder=2, step=step,
            )  # fmt: skip
            label = None


def _gaps(axes: Axes, layout: _Layout, iterations: Sequence[IterationMemory]) -> None:
    if not layout.gaps:
        return
    axes.broken_barh(
        [(gap.start, layout.gap_width) for gap in layout.gaps], (0.0, 1.0),
        transform=axes.get_xaxis_transform(),
        facecolor="#f5f5f5", edgecolor="#d9d9d9", hatch="//", linewidth=0, zorder=1, label="not watched",
    )  # fmt: skip
    if len(layout.gaps) > _MAX_NAMED_GAPS:
        return
    for first, last, start in layout.gaps:
        span = f"{iterations[first].index:,}"
        if last > first:
            span += f" to {iterations[last].index:,}"
        axes.text(
            start + layout.gap_width / 2, 0.5, f"{span} not watched", transform=axes.get_xaxis_transform(),
            rotation=90, ha="center", va="center", fontsize=9, color=MUTED, zorder=3,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip


def _ticks(axes: Axes, layout: _Layout, iterations: Sequence[IterationMemory]) -> None:
    """Number the iterations: where each window starts and ends first, round numbers where there is room."""
    watched = sum(window.last - window.first + 1 for window in layout.windows)
    step = next(size for size in _round_numbers() if size * _TICKS >= watched)
    wanted = [(window, window.first) for window in layout.windows]
    if layout.gaps:
        wanted += [(window, window.last) for window in layout.windows]
    wanted += [
        (window, position)
        for window in layout.windows
        for position in range(window.first, window.last + 1)
        if iterations[position].index % step == 0
    ]
    placed: dict[float, str] = {}
    for window, position in wanted:
        x = window.x_of(position)
        if all(abs(x - other) >= 0.99 * min(1.0 * step, layout.width / _TICKS) for other in placed):
            placed[x] = f"{iterations[position].index:,}"
    axes.set_xticks(list(placed), list(placed.values()))
    axes.set_xlabel("iteration", fontsize=10, color=INK, labelpad=3)


def _round_numbers() -> Iterator[int]:
    for power in itertools.count():
        for digit in (1, 2, 5):
            yield digit * 10**power

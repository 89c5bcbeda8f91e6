"""The upper panel of a plot: memory of every iteration, its peaks, and how it grows."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from memprof.model.memory import MemoryModel, Peak, Source
from memprof.record.events import Phase
from memprof.record.iterations import EVALUATE
from memprof.report.plot_series import Curve, end_curve, growth_line, phase_curve, stretches
from memprof.report.plot_style import (
    ALLOCATED,
    EVALUATION,
    GROWTH,
    INK,
    MUTED,
    PHASE_LOOKS,
    drawable,
    panel_title,
    side_legend,
)
from memprof.report.wording import per_iteration, source_suffix
from memprof.units import format_bytes

_POINTS = 1500
_MARKED_ITERATIONS = 60
"""With more iterations markers would merge, so phase peaks become lines."""
_ZOOM_SHARE = 0.8
"""Where everything lies above this share of the maximum, the axis does not start at 0."""
_UNITS = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def unit_for(nbytes: float) -> tuple[str, int]:
    """Choose the unit of an axis.

    Args:
        nbytes: The largest value on it.

    Returns:
        Name and size of the unit: the largest of which there is at least one.
    """
    return next(((name, factor) for name, factor in _UNITS if nbytes >= factor), ("B", 1))


def draw_memory(axes: Axes, model: MemoryModel, device: str) -> None:
    """Draw the memory of one device over the iterations.

    Args:
        axes: Where to draw.
        model: The model of the run; it has iterations.
        device: The device.
    """
    ends = end_curve(model.iterations, device, _POINTS)
    phases = {phase: phase_curve(model.iterations, device, phase, _POINTS) for phase in PHASE_LOOKS}
    peak = model.peaks.get(device)
    extent = _extent([ends, *phases.values()], peak)
    source = source_suffix(least_direct_source(model, device))
    panel_title(axes, drawable(f"Memory of {device} by iteration{source}"))
    if extent is None:
        say_nothing(axes, "memory of this device is unknown")
        return
    low, high = extent
    unit, factor = unit_for(high)
    _bands(axes, model)
    marked = len(model.iterations) <= _MARKED_ITERATIONS
    for phase, curve in phases.items():
        if curve.is_known:
            _phase(axes, phase, curve, factor, marked=marked)
    if ends.is_known:
        lone = ends.isolated()
        axes.plot(
            ends.x, ends.nbytes / factor, color=ALLOCATED, linewidth=2.0, linestyle="-", zorder=4,
            label="allocated at end", marker="o" if marked or lone else "", markersize=3.6,
            markeredgewidth=0, markevery=None if marked else lone,
        )  # fmt: skip
    _limits(axes, model, low / factor, high / factor, unit)
    _growth(axes, model, device, factor)
    if peak is not None:
        _peak(axes, peak, factor)
    side_legend(axes)


def say_nothing(axes: Axes, reason: str) -> None:
    """Say in the middle of empty axes why they are empty.

    Args:
        axes: The axes.
        reason: Why there is nothing to draw.
    """
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("#f7f7f7")
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=12, color=MUTED)


def least_direct_source(model: MemoryModel, device: str, *, tracked_only: bool = False) -> Source | None:
    """Find where the figures of a panel come from.

    Args:
        model: The model of the run.
        device: The device.
        tracked_only: Whether to ask only iterations in which storages were watched.

    Returns:
        Of several sources the least direct one, so that no figure looks better than it is; None where
        nothing is known.
    """
    known = [
        iteration.devices[device]
        for iteration in model.iterations
        if device in iteration.devices and (iteration.tracked or not tracked_only)
    ]
    sources = {source for memory in known for source in (memory.source, memory.peak_source) if source is not None}
    return max(sources, key=list(Source).index, default=None)


def _extent(curves: list[Curve], peak: Peak | None) -> tuple[float, float] | None:
    known = [curve.nbytes[np.isfinite(curve.nbytes)] for curve in curves]
    if peak is not None:
        known.append(np.array([peak.allocated_bytes], np.float64))
    values = np.concatenate(known)
    return (float(values.min()), float(values.max())) if len(values) else None


def _bands(axes: Axes, model: MemoryModel) -> None:
    """Shade stretches of evaluation behind everything else."""
    runs = stretches([iteration.kind == EVALUATE for iteration in model.iterations])
    if not runs:
        return
    spans = [(model.iterations[a].index - 0.5, b - a + 1.0) for a, b in runs]
    axes.broken_barh(
        spans, (0.0, 1.0), transform=axes.get_xaxis_transform(), facecolor=EVALUATION, edgecolor=EVALUATION,
        linewidth=0.8, zorder=0.5, label="evaluation",
    )  # fmt: skip


def _phase(axes: Axes, phase: Phase, curve: Curve, factor: int, *, marked: bool) -> None:
    colour, marker = PHASE_LOOKS[phase]
    label = "peak elsewhere" if phase is Phase.OTHER else f"peak in {phase.label}"
    lone = curve.isolated()
    axes.plot(
        curve.x, curve.nbytes / factor, color=colour, label=label, alpha=0.95, zorder=3,
        linestyle="" if marked else "-", linewidth=1.1, marker=marker if marked or lone else "",
        markersize=4.6 if marked else 3.0, markeredgewidth=0, markevery=None if marked else lone,
    )  # fmt: skip


def _limits(axes: Axes, model: MemoryModel, low: float, high: float, unit: str) -> None:
    label = f"allocated, {unit}"
    bottom, top = 0.0, high * 1.2 if high > 0 else 1.0
    if low > _ZOOM_SHARE * high and high - low > 0.001 * high:
        bottom, top = low - 0.3 * (high - low), high + 0.45 * (high - low)
        label += " (not from 0)"
    axes.set_ylim(bottom, top)
    axes.set_ylabel(label, fontsize=10, color=INK, labelpad=6)
    axes.set_xlim(model.iterations[0].index - 0.5, model.iterations[-1].index + 0.5)
    axes.set_xlabel("iteration", fontsize=10, color=INK, labelpad=3)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _growth(axes: Axes, model: MemoryModel, device: str, factor: int) -> None:
    trend = model.trends.get(device)
    line = None if trend is None else growth_line(model.iterations, device, trend)
    if trend is None or line is None:
        return
    text = f"{per_iteration(trend.bytes_per_iteration)}{source_suffix(trend.source)}"
    steady = abs(trend.bytes_per_iteration) < 1
    axes.plot(
        line.x, line.nbytes / factor, color=GROWTH, linewidth=1.6, linestyle=(0, (5, 3)), zorder=5, marker="",
        label="growth: none" if steady else f"growth ({model.iterations[trend.first_iteration].kind})",
    )  # fmt: skip
    if steady:
        return
    x = 0.6 * line.x[0] + 0.4 * line.x[1]
    y = (0.6 * line.nbytes[0] + 0.4 * line.nbytes[1]) / factor
    # Below a rising line there is nothing else: the peaks are above it.
    side = (10, -10, "left", "top") if trend.bytes_per_iteration > 0 else (-10, -10, "right", "top")
    axes.annotate(
        text, (x, y), xytext=side[:2], textcoords="offset points", ha=side[2], va=side[3], fontsize=11,
        fontweight="bold", color=GROWTH, zorder=7, bbox=_LABEL_BOX,
    )  # fmt: skip


_LABEL_BOX = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.88}


def _peak(axes: Axes, peak: Peak, factor: int) -> None:
    y = peak.allocated_bytes / factor
    facts = [f"peak {format_bytes(peak.allocated_bytes)}"]
    if peak.iteration is not None:
        facts.append(f"iteration {peak.iteration}")
    if peak.phase is not None:
        facts.append(peak.phase.label)
    text = ", ".join(facts) + source_suffix(peak.source)
    left, right = axes.get_xlim()
    if peak.iteration is None:
        axes.axhline(y, color=INK, linewidth=0.9, linestyle=":", zorder=2)
        x, centre = (left + right) / 2, True
    else:
        x, centre = float(peak.iteration), False
        axes.plot(
            [x], [y], marker="*", markersize=13, color=INK, markeredgecolor="white", linestyle="", zorder=6,
            clip_on=False,
        )  # fmt: skip
    share = (x - left) / (right - left)
    if centre or math.isclose(share, 0.5, abs_tol=0.2):
        ha, offset = "center", 0
    else:
        ha, offset = ("left", 0) if share < 0.5 else ("right", 0)
    axes.annotate(
        text, (x, y), xytext=(offset, 9), textcoords="offset points", ha=ha, va="bottom", fontsize=10,
        fontweight="bold", color=INK, zorder=7, bbox=_LABEL_BOX,
    )  # fmt: skip

"""Two runs side by side, in a terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from memprof.advise.compare import Status
from memprof.report.finding_block import SEVERITY_STYLES
from memprof.report.growth import is_steady
from memprof.report.page import Page, indented
from memprof.report.safe_json import dump
from memprof.report.wording import UNKNOWN, duration, per_iteration, size, source_suffix

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from memprof.advise.compare import Comparison, DeviceFigures, FindingChange
    from memprof.detect.finding import Finding
    from memprof.model.memory import Source

_BETTER, _WORSE = "green", "red"
_NOTICEABLE = 0.005
"""A smaller change is shown, but is none to be glad or sorry about."""
_STATUS_STYLES = {Status.GONE: _BETTER, Status.NEW: _WORSE, Status.STILL: "dim"}


def compare_table(found: Comparison, names: tuple[str, str], console: Console, cwd: str) -> RenderableType:
    """Set a comparison.

    Args:
        found: What changed.
        names: What the two runs are called.
        console: Where it will be printed; its width and encoding are obeyed.
        cwd: Folder that paths are shown relative to.

    Returns:
        A renderable.
    """
    page = Page.of(console, cwd)
    table = Table(
        box=box.ASCII if page.ascii_only else box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("")
    for title in (*names, "change"):
        table.add_column(page.text(title), justify="right", overflow="fold")
    for label, was, now, change, style in _rows(found):
        table.add_row(page.text(label), page.text(was), page.text(now), page.text(change, style))
    blocks: list[RenderableType] = [table, ""]
    if found.findings:
        facts = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(2):
            facts.add_column(no_wrap=True)
        facts.add_column(overflow="fold", ratio=1)
        for item in found.findings:
            facts.add_row(*_finding(item, page))
        blocks += [page.heading("Findings"), indented(facts, 2)]
    else:
        blocks.append(page.text("no finding in either run"))
    if found.differences:
        blocks += ["", page.text(f"The runs differ in more than the change: {'; '.join(found.differences)}.", "yellow")]
    return Group(*blocks)


def _rows(found: Comparison) -> Iterator[tuple[str, str, str, str, str]]:
    for item in found.devices:
        was, now = item.before, item.after
        peaks = was.peak_allocated_bytes, now.peak_allocated_bytes
        yield (
            f"peak on {item.device}",
            _known(peaks[0], was.peak_source),
            _known(peaks[1], now.peak_source),
            *_change(*peaks),
        )
        reserved = was.peak_reserved_bytes, now.peak_reserved_bytes
        if reserved != (None, None):
            yield "  reserved", _known(reserved[0], None), _known(reserved[1], None), *_change(*reserved)
        if (was.trend, now.trend) != (None, None):
            yield "  growth", _growth(was), _growth(now), "", ""
    if found.iteration_ns != (None, None):
        times = tuple(UNKNOWN if value is None else duration(value) for value in found.iteration_ns)
        yield "iteration (median)", times[0], times[1], _share(*found.iteration_ns), ""


def _known(nbytes: int | None, source: Source | None) -> str:
    return "-" if nbytes is None else size(nbytes, source)


def _growth(figures: DeviceFigures) -> str:
    trend = figures.trend
    if trend is None or not math.isfinite(trend.bytes_per_iteration):
        return "-"
    said = "steady" if is_steady(trend, figures.peak_allocated_bytes) else per_iteration(trend.bytes_per_iteration)
    return f"{said}{source_suffix(trend.source)}"


def _change(before: int | None, after: int | None) -> tuple[str, str]:
    """A change of bytes, and how it is to be taken."""
    if before is None or after is None:
        return "-", ""
    noticed = abs(after - before) > _NOTICEABLE * before
    style = "" if not noticed else _BETTER if after < before else _WORSE
    return f"{size(after - before, signed=True)} ({_share(before, after)})", style


def _share(before: float | None, after: float | None) -> str:
    if not before or after is None:
        return "-"
    return f"{100 * (after / before - 1):+.0f} %"


def _finding(change: FindingChange, page: Page) -> tuple[Text, Text, Text]:
    finding = change.finding
    where = "" if finding.location is None else page.place(finding.location)
    grown = [_figure(item) for item in (change.before, change.after) if item is not None]
    said = f"{where}  {' -> '.join(dict.fromkeys(grown))}".strip()
    return (
        page.text(change.status.value, _STATUS_STYLES[change.status]),
        page.text(f"{finding.code} {finding.severity.value}", SEVERITY_STYLES[finding.severity]),
        page.text(said),
    )


def _figure(finding: Finding) -> str:
    if finding.bytes_per_iteration:
        return per_iteration(finding.bytes_per_iteration)
    return size(finding.bytes)


def compare_text(found: Comparison) -> str:
    """Give a comparison as JSON.

    Args:
        found: What changed.

    Returns:
        An object; sizes in bytes, times in nanoseconds, null where unknown.
    """
    return (
        dump(
            {
                "devices": [
                    {
                        "device": item.device,
                        "before": _figures(item.before),
                        "after": _figures(item.after),
                        "peak_increase": item.peak_increase,
                    }
                    for item in found.devices
                ],
                "iteration_ns": dict(zip(("before", "after"), found.iteration_ns, strict=True)),
                "findings": [
                    {
                        "status": item.status.value,
                        "before": _brief(item.before),
                        "after": _brief(item.after),
                    }
                    for item in found.findings
                ],
                "differences": list(found.differences),
            },
            indent=2,
        )
        + "\n"
    )


def _figures(figures: DeviceFigures) -> dict[str, Any]:
    trend = figures.trend
    return {
        "peak_allocated_bytes": figures.peak_allocated_bytes,
        "peak_reserved_bytes": figures.peak_reserved_bytes,
        "peak_source": None if figures.peak_source is None else figures.peak_source.value,
        "bytes_per_iteration": None if trend is None else _finite(trend.bytes_per_iteration),
        "growth_source": None if trend is None else trend.source.value,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _brief(finding: Finding | None) -> dict[str, Any] | None:
    if finding is None:
        return None
    where = finding.location
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "device": finding.device,
        "location": None if where is None else {"file": where.file, "line": where.line, "function": where.function},
        "bytes": finding.bytes,
        "bytes_per_iteration": _finite(finding.bytes_per_iteration),
        "message": finding.message,
    }

"""The iterations of a run in the terminal: a table of the first, the last and the largest, and a curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from memprof.model.memory import DeviceIteration, IterationMemory, MemoryModel, Source
from memprof.report.growth import trend_sentence
from memprof.report.page import Page, indented
from memprof.report.wording import counted, duration, loop_iterations, size, source_suffix
from memprof.units import format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType

_INDENT = 2
_LABEL = 10
_MAX_SPARK = 60
_WRAPPED = "kind"
_WRAPPED_AT = 10
"""Where there is little room, this column breaks `train, cut off` into lines of so many characters."""
_DISPENSABLE = ("time", "start", "peak in", "#", "source")
"""Columns to leave out on a narrow page, in this order."""
NUMBERS = frozenset({"#", "start", "end", "peak", "time"})
"""Columns whose cells are set to the right."""


def iteration_block(
    model: MemoryModel, page: Page, *, devices: Sequence[str], main: str, edge: int
) -> Iterator[RenderableType]:
    """Lay out what the iterations did to memory.

    Args:
        model: The model of the run; it has iterations.
        page: The page it is set on.
        devices: Devices to draw a curve for.
        main: The device the table is about.
        edge: How many of the first and of the last iterations to list.

    Yields:
        A heading, the table, then a curve and the trend for each device.
    """
    sources = {i.devices[main].source for i in model.iterations if main in i.devices}
    common = next(iter(sources)) if len(sources) == 1 else None
    yield page.heading(f"{iterations_title(model, main)}{source_suffix(common)}")
    peak = model.peaks.get(main)
    rows = chosen_iterations(model.iterations, edge, None if peak is None else peak.iteration)
    cut = cut_off(model)
    yield indented(_table(rows, main, page, cut, show_source=len(sources) > 1), _INDENT)
    yield indented(page.text("allocated at the end of each iteration", "dim"), _INDENT)
    for device in devices:
        yield indented(_curve(model.iterations, device, page), _INDENT)
        trend = model.trends.get(device)
        if trend is not None:
            line = Text(f"{'growth':<{_LABEL}}", style="dim")
            reached = model.peaks.get(device)
            said = trend_sentence(trend, None if reached is None else reached.allocated_bytes)
            yield indented(line.append_text(page.text(said, "not dim")), _INDENT)


def iterations_title(model: MemoryModel, device: str) -> str:
    """What the table is about: `56 iterations, memory of cuda:0`."""
    loops = loop_iterations(model)
    return f"{counted(loops, 'iteration')}, memory of {device}" if loops else f"Memory of {device} over time"


def chosen_iterations(
    iterations: Sequence[IterationMemory], edge: int, peak_iteration: int | None
) -> list[IterationMemory | int]:
    """Pick the rows to show.

    Args:
        iterations: All of a run.
        edge: How many of the first and of the last to show.
        peak_iteration: The index of one more to show.

    Returns:
        Iterations in order; a number stands for that many left out.
    """
    last = len(iterations)
    keep = {*range(min(edge, last)), *range(max(last - edge, 0), last)}
    keep |= {n for n, iteration in enumerate(iterations) if iteration.index == peak_iteration}
    # A gap of one iteration takes as much room as the iteration itself.
    keep |= {n for n in range(last) if n - 1 in keep and n + 1 in keep}
    rows: list[IterationMemory | int] = []
    previous = -1
    for n in sorted(keep):
        if n > previous + 1:
            rows.append(n - previous - 1)
        rows.append(iterations[n])
        previous = n
    if previous < last - 1:
        rows.append(last - 1 - previous)
    return rows


def _table(
    rows: Sequence[IterationMemory | int], device: str, page: Page, cut: frozenset[int], *, show_source: bool
) -> Table:
    table = Table(box=box.ASCII if page.ascii_only else box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    titles = iteration_columns(show_source=show_source)
    cells = [
        None if isinstance(row, int) else iteration_cells(row, device, cut, show_source=show_source) for row in rows
    ]
    shown = _columns_that_fit(titles, [item for item in cells if item is not None], page.width - _INDENT)
    for title in (titles[column] for column in shown):
        if title == _WRAPPED:
            gaps = [len(f"{row:,} more") for row in rows if isinstance(row, int)]
            table.add_column(title, overflow="fold", min_width=min(max(gaps, default=0), page.width // 4) or None)
        else:
            table.add_column(title, justify="right" if title in NUMBERS else "left", no_wrap=True)
    for row, of_row in zip(rows, cells, strict=True):
        if of_row is None:
            table.add_row(page.ellipsis, page.text(f"{row:,} more", "dim"))
        else:
            table.add_row(*(page.text(of_row[column]) for column in shown))
    return table


def _columns_that_fit(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Numbers of the columns to show: a figure is never cut off, the least telling columns are left out instead."""
    widths = {title: max(len(title), *(len(row[column]) for row in rows)) for column, title in enumerate(titles)}
    widths[_WRAPPED] = min(widths[_WRAPPED], _WRAPPED_AT)
    for title in _DISPENSABLE:
        if sum(widths.values()) + 2 * (len(widths) - 1) <= width:
            break
        widths.pop(title, None)
    return [column for column, title in enumerate(titles) if title in widths]


def iteration_columns(*, show_source: bool) -> list[str]:
    """The titles of what `iteration_cells` gives."""
    titles = ["#", "kind", "start", "end", "peak", "peak in", "time"]
    return [*titles, "source"] if show_source else titles


def cut_off(model: MemoryModel) -> frozenset[int]:
    """Numbers of the iterations that an error or the end of the run broke off.

    Every run ends inside one; where the script came to its end, that is nothing to point at.
    """
    ended = model.run.finished and model.run.exit_status in (0, None) and not model.run.exception
    whole = model.iterations[-1:] if ended else ()
    return frozenset(row.index for row in model.iterations if not row.complete and row not in whole)


def iteration_cells(row: IterationMemory, device: str, cut: frozenset[int], *, show_source: bool) -> list[str]:
    """The row of one iteration: number, kind, memory at its start, its end and at most, phase, time, source."""
    memory = row.devices.get(device, _NOTHING_KNOWN)
    sizes = (memory.allocated_bytes_start, memory.allocated_bytes_end, memory.peak_allocated_bytes)
    cells = [str(row.index), f"{row.kind}, cut off" if row.index in cut else row.kind]
    cells += ["-" if nbytes is None else format_bytes(nbytes) for nbytes in sizes]
    if memory.peak_allocated_bytes is not None:
        cells[-1] += source_suffix(memory.peak_source)
    cells += ["-" if memory.peak_phase is None else memory.peak_phase.label, duration(row.duration_ns)]
    if show_source:
        cells.append(memory.source.value if device in row.devices else "-")
    return cells


_NOTHING_KNOWN = DeviceIteration(
    allocated_bytes_start=None,
    allocated_bytes_end=None,
    peak_allocated_bytes=None,
    peak_phase=None,
    phase_peaks={},
    reserved_bytes_end=None,
    source=Source.MEASURED,
)


def _curve(iterations: Sequence[IterationMemory], device: str, page: Page) -> Text:
    ends = [i.devices[device].allocated_bytes_end if device in i.devices else None for i in iterations]
    known = [value for value in ends if value is not None]
    line = page.text(f"{device[: _LABEL - 1]:<{_LABEL}}", "dim")
    if not known:
        return line.append_text(page.text("unknown"))
    width = min(_MAX_SPARK, page.width - _INDENT - _LABEL - 26)
    line.append_text(page.text(page.sparkline(ends, max(width, 8)), "not dim blue"))
    extent = f"  {size(min(known))}"
    if max(known) != min(known):
        extent += f" to {size(max(known))}"
    return line.append_text(page.text(extent, "not dim"))

"""The iterations of a run in the terminal: a table of the first, the last and the largest, and a curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from memprof.model.memory import DeviceIteration, IterationMemory, MemoryModel, Source
from memprof.report.page import Page, indented
from memprof.report.wording import counted, duration, size, source_suffix, trend_sentence
from memprof.units import format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType

_INDENT = 2
_LABEL = 10
_MAX_SPARK = 60
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
    yield page.heading(f"{counted(len(model.iterations), 'iteration')}, memory of {main}{source_suffix(common)}")
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
            yield indented(line.append_text(page.text(trend_sentence(trend), "not dim")), _INDENT)


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
    for title in iteration_columns(show_source=show_source):
        if title == "kind":
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, justify="right" if title in NUMBERS else "left", no_wrap=True)
    for row in rows:
        if isinstance(row, int):
            table.add_row(page.ellipsis, page.text(f"{row:,} more", "dim"))
        else:
            table.add_row(*map(page.text, iteration_cells(row, device, cut, show_source=show_source)))
    return table


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

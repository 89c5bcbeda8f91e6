"""The peak of a device in the terminal: what it was made of and which lines held it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from memprof.model.memory import UNCATEGORISED, Peak, PeakLine
from memprof.report.page import Page, indented
from memprof.report.wording import by_size, counted, percent, size, source_suffix

if TYPE_CHECKING:
    from rich.console import RenderableType

NOT_WATCHED = "not watched"
_INDENT = 2
_NARROW_BAR = 24
_WIDE_BAR = 48
_LEAST_BAR = 8
_AROUND_BAR = 38
"""Columns that a category, its bytes and its share take beside the bar, and what is free between them."""
_WIDE_PAGE = 110


def peak_block(peak: Peak, page: Page, *, top_lines: int, of_blocks: bool = False) -> Iterator[RenderableType]:
    """Lay out the peak of one device.

    Args:
        peak: The peak.
        page: The page it is set on.
        top_lines: Most source lines to list.
        of_blocks: It is made of blocks of an allocator, of which nobody knows what they were for.

    Yields:
        A heading, the composition as bars, the lines that held most.
    """
    yield page.heading(peak_summary(peak))
    if of_blocks:
        pass
    elif peak.by_category is None:
        yield indented(page.text("composition unknown: storages were not watched at the peak"), _INDENT)
    else:
        yield indented(_composition(peak.by_category, peak.allocated_bytes, page), _INDENT)
    if peak.lines and top_lines:
        yield indented(page.text("lines that held most at the peak", "dim"), _INDENT)
        yield indented(_lines(peak.lines[:top_lines], page, of_blocks=of_blocks), 2 * _INDENT)


def peak_summary(peak: Peak) -> str:
    """The peak in one line: how much, when, and how that is known."""
    parts = [f"{size(peak.allocated_bytes)} allocated"]
    if peak.reserved_bytes is not None:
        parts.append(f"{size(peak.reserved_bytes)} reserved")
    if peak.iteration is not None:
        parts.append(f"iteration {peak.iteration}")
    if peak.phase is not None:
        parts.append(peak.phase.label)
    return f"Peak on {peak.device}: {', '.join(parts)}{source_suffix(peak.source)}"


def composition_rows(by_category: Mapping[str, int], allocated_bytes: int) -> list[tuple[str, int, float]]:
    """What a peak was made of, largest first: category, bytes, and share of the whole."""
    # Where only part of the peak was watched, the rest must not vanish from the percentages.
    unwatched = max(allocated_bytes - sum(by_category.values()), 0)
    whole = sum(by_category.values()) + unwatched
    rows = by_size(by_category)
    if unwatched > 0.01 * whole:
        rows.append((NOT_WATCHED, unwatched))
    return [(name, nbytes, nbytes / whole if whole else 0.0) for name, nbytes in rows]


def _composition(by_category: Mapping[str, int], allocated_bytes: int, page: Page) -> Table:
    rows = composition_rows(by_category, allocated_bytes)
    whole = max(sum(by_category.values()), allocated_bytes)
    room = page.width - _INDENT - _AROUND_BAR
    bar_width = _WIDE_BAR if page.width >= _WIDE_PAGE else min(_NARROW_BAR, room)
    table = Table.grid(padding=(0, 2, 0, 0))
    if not rows:
        table.add_row(page.text("nothing was allocated"))
        return table
    table.add_column(no_wrap=True)
    if has_bars := bar_width >= _LEAST_BAR:
        table.add_column(no_wrap=True, width=bar_width)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for name, nbytes, share in rows:
        style = "dim" if name in (UNCATEGORISED, NOT_WATCHED) else "blue"
        bar = (page.text(page.bar(share, bar_width), style),) if has_bars else ()
        table.add_row(page.text(name), *bar, page.text(size(nbytes)), page.text(percent(nbytes, whole)))
    return table


def _lines(lines: tuple[PeakLine, ...], page: Page, *, of_blocks: bool) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_column(overflow="fold")
    for line in lines:
        where, of = line_words(line, page, of_blocks=of_blocks)
        table.add_row(page.text(size(line.nbytes)), page.text(where, "cyan"), page.text(of, "dim"))
    return table


def line_words(line: PeakLine, page: Page, *, of_blocks: bool = False) -> tuple[str, str]:
    """Where a line of a peak is, and what it held."""
    of = [counted(line.count, "block" if of_blocks else "storage")]
    if not of_blocks:
        of.append(line.category.value if line.category is not None else UNCATEGORISED)
    if line.module is not None:
        of.append(f"{line.module.type_name} {line.module.path}".rstrip())
    return page.place(line.location) if line.location is not None else "line unknown", ", ".join(of)

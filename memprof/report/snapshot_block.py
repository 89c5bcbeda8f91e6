"""A PyTorch snapshot in the terminal: what each device held when it was taken, by line and age."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from memprof.model.memory import MemoryModel
from memprof.model.snapshot import SnapshotTotals
from memprof.model.storages import table_of
from memprof.record.events import Location
from memprof.report.page import Page, indented
from memprof.report.wording import counted, duration, size

if TYPE_CHECKING:
    from rich.console import RenderableType

ALIVE = "blocks alive then, by the line that made them (not each is a leak)"
_INDENT = 2


def snapshot_block(
    model: MemoryModel, totals: SnapshotTotals, page: Page, *, top_lines: int
) -> Iterator[RenderableType]:
    """Lay out one device of a snapshot.

    Args:
        model: The model made from the snapshot.
        totals: The device's sums.
        page: The page it is set on.
        top_lines: Most source lines to list.

    Yields:
        A heading, the sums, the lines whose blocks were alive.
    """
    yield page.heading(snapshot_title(totals))
    yield page.facts([(label, page.text(text)) for label, text in snapshot_facts(totals)], indent=_INDENT)
    rows = alive_rows(model, totals.device, page)[:top_lines]
    if rows:
        yield indented(page.text(ALIVE, "dim"), _INDENT)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        table.add_column(overflow="fold")
        for nbytes, where, what in rows:
            table.add_row(page.text(nbytes), page.text(where, "cyan"), page.text(what, "dim"))
        yield indented(table, 2 * _INDENT)


def snapshot_title(totals: SnapshotTotals) -> str:
    """What the sums are about: `cuda:0 when the snapshot was taken`."""
    what = "pinned host memory" if totals.device == "host" else totals.device
    return f"{what} when the snapshot was taken"


def snapshot_facts(totals: SnapshotTotals) -> list[tuple[str, str]]:
    """The sums of one device, each with its label."""
    is_host = totals.device == "host"
    waiting = totals.active_bytes - totals.allocated_bytes
    facts = [
        ("reserved", f"{size(totals.reserved_bytes)} in {counted(totals.segments, 'segment')}"),
        ("allocated", size(totals.allocated_bytes)),
    ]
    if waiting:
        facts.append(("awaiting free", f"{size(waiting)} that the program freed and another stream still used"))
    facts.append(("requested", f"{size(totals.requested_bytes)} of that, before rounding"))
    if not is_host:
        facts.append(("stranded", f"{size(totals.stranded_bytes)} free in segments partly in use"))
        facts.append(("largest hole", size(totals.largest_free_block_bytes)))
    if totals.private_pool_bytes:
        facts.append(("private pools", f"{size(totals.private_pool_bytes)} (CUDA graphs, MemPool)"))
    return facts


def alive_rows(model: MemoryModel, device: str, page: Page) -> list[tuple[str, str, str]]:
    """Lines whose blocks were alive when the snapshot was taken, most bytes first: bytes, line, blocks and ages."""
    rows = []
    for location, nbytes, count, ages in _alive(model, device):
        where = "line unknown" if location is None else page.place(location)
        age = "older than the trace" if ages is None else _age(*ages, count)
        rows.append((size(nbytes), where, f"{counted(count, 'block')}, {age}"))
    return rows


def _age(oldest_ns: int, newest_ns: int, count: int) -> str:
    """Old and young blocks of one line are what it kept; all of one age are what it made at once."""
    if count == 1:
        return f"{duration(oldest_ns)} old"
    if oldest_ns < 2 * newest_ns:
        return f"about {duration(oldest_ns)} old"
    return f"{duration(newest_ns)} to {duration(oldest_ns)} old"


def _alive(model: MemoryModel, device: str) -> list[tuple[Location | None, int, int, tuple[int, int] | None]]:
    """Line, bytes, blocks and ages of the oldest and newest of what was alive at the end; most bytes first."""
    end = model.ticks[-1].end_ns if model.ticks else 0
    storages = table_of(model.storages)
    table = storages.lifetimes
    code = table.devices.index(device) if device in table.devices else -1
    alive = np.flatnonzero((table.device == code) & ~table.died)
    lines, group = np.unique(table.location[alive], return_inverse=True)
    count = np.bincount(group, minlength=len(lines))
    nbytes = np.zeros(len(lines), np.int64)
    np.add.at(nbytes, group, table.nbytes[alive])
    oldest = np.full(len(lines), end, np.int64)
    np.minimum.at(oldest, group, table.birth_ns[alive])
    newest = np.zeros(len(lines), np.int64)
    np.maximum.at(newest, group, table.birth_ns[alive])
    unknown = np.zeros(len(lines), np.bool_)
    unknown[group[storages.birth_iteration[alive] < 0]] = True
    return [
        (
            table.locations[int(lines[row])],
            int(nbytes[row]),
            int(count[row]),
            None if unknown[row] else (max(0, end - int(oldest[row])), max(0, end - int(newest[row]))),
        )
        for row in np.argsort(-nbytes, kind="stable").tolist()
    ]

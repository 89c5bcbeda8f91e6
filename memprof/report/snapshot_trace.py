"""The events of a run's storages as an allocator's trace.

Where the history of CUDA's allocator was recorded, addresses and segments are its own. Elsewhere they are made up, and
say nothing about fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from memprof.model.lifetimes import IntArray
from memprof.model.memory import MemoryModel
from memprof.model.segments import SegmentChanges
from memprof.model.storages import StorageTable
from memprof.record.blocks import BlockAction
from memprof.report.address_space import ALIGNMENT, AddressSpace, round_up

_FIRST_ADDRESS = 1 << 32
"""Far from 0, and every address after it still exact as a JavaScript number."""
_GROWS = (int(BlockAction.SEGMENT_ALLOC), int(BlockAction.SEGMENT_MAP))
_DEATH_ENTRIES = 2


@dataclass(frozen=True, slots=True)
class TraceBlock:
    """A piece of a segment at the end."""

    address: int
    nbytes: int
    requested_bytes: int
    row: int
    """Of the storage, -1 where it is free."""


@dataclass(slots=True)
class TraceSegment:
    """A segment at the end; blocks in order of address."""

    index: int
    """Of the device."""
    address: int
    nbytes: int
    stream: int = 0
    expandable: bool = False
    blocks: list[TraceBlock] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Entries of one device in order, one array a column, and its segments at the end."""

    action: IntArray
    """Values of `BlockAction`."""
    address: IntArray
    nbytes: IntArray
    stream: IntArray
    time_ns: IntArray
    """On the recording's clock; may go back by what the clocks of two ticks differ."""
    row: IntArray
    """Of the storage, -1 for a segment's entries."""
    segments: tuple[TraceSegment, ...] = ()

    def __len__(self) -> int:
        """Entries."""
        return len(self.action)


def trace_of(model: MemoryModel, table: StorageTable, device: str, index: int) -> Trace:
    """Put the births and deaths on a device in order, as an allocator would tell them.

    Args:
        model: The run.
        table: Its storages.
        device: The device.
        index: Its number in the snapshot.

    Returns:
        Its trace; empty for a device without storages.
    """
    columns = table.lifetimes
    code = columns.devices.index(device) if device in columns.devices else -1
    rows = np.flatnonzero((columns.device == code) & (columns.nbytes > 0))
    if not len(rows):
        nothing = np.zeros(0, np.int64)
        return Trace(nothing, nothing, nothing, nothing, nothing, nothing)
    changes = model.segments.get(device)
    if changes is not None and (columns.address[rows] > 0).all():
        segments = _segments_at_end(changes, index)
        if _fill(segments, table, rows[~columns.died[rows]], columns.address):
            return _trace(table, rows, columns.address, changes, tuple(segments))
    return _made_up(table, rows, index)


def _events(table: StorageTable, rows: IntArray, changes: SegmentChanges | None) -> tuple[IntArray, IntArray, IntArray]:
    """What happens in order: its number, its time, and the row it is about.

    Numbers 0 and up are births and deaths: of the k-th row 2k and 2k + 1. Changes of segments are numbered down
    from -1.
    """
    columns = table.lifetimes
    dead = np.flatnonzero(columns.died[rows])
    numbers = [np.arange(len(rows)) * 2, dead * 2 + 1]
    times = [columns.birth_ns[rows], columns.death_ns[rows[dead]]]
    ticks = [columns.birth_tick[rows], columns.death_tick[rows[dead]]]
    order = list(numbers)
    if changes is not None:
        grows = np.isin(changes.action, _GROWS)
        numbers.append(-1 - np.arange(len(changes)))
        times.append(changes.time_ns)
        ticks.append(changes.tick)
        # At the same time a segment comes before the blocks in it, and goes after them.
        order.append(np.where(grows, -1, 2 * len(rows)))
    number = np.concatenate(numbers)
    time_ns = np.concatenate(times)
    sorted_by = np.lexsort((np.concatenate(order), time_ns, np.concatenate(ticks)))
    number = number[sorted_by]
    return number, time_ns[sorted_by], np.where(number >= 0, rows[np.maximum(number, 0) // 2], -1)


def _trace(
    table: StorageTable,
    rows: IntArray,
    address: IntArray,
    changes: SegmentChanges,
    segments: tuple[TraceSegment, ...],
) -> Trace:
    """Entries from events; a death makes two.

    Args:
        table: The storages.
        rows: Those of the device.
        address: Of every row of the table.
        changes: The device's segments.
        segments: What they are at the end.
    """
    number, time_ns, row = _events(table, rows, changes)
    dies = (number >= 0) & (number % 2 == 1)
    # One after the other, so that no column is ever there twice.
    times = np.where(dies, _DEATH_ENTRIES, 1)
    second = np.zeros(int(times.sum()), np.bool_)
    second[np.cumsum(times)[dies] - 1] = True
    number, time_ns, row = (np.repeat(column, times) for column in (number, time_ns, row))
    is_segment = number < 0
    change = np.where(is_segment, -1 - number, 0)
    freed = np.where(second, int(BlockAction.FREE_COMPLETED), int(BlockAction.FREE_REQUESTED))
    action = np.where(number % 2 == 1, freed, int(BlockAction.ALLOC))
    return Trace(
        action=np.where(is_segment, changes.action[change], action),
        address=np.where(is_segment, changes.address[change], address[row]),
        nbytes=np.where(is_segment, changes.nbytes[change], table.lifetimes.nbytes[row]),
        stream=np.where(is_segment, changes.stream[change], 0),
        time_ns=time_ns,
        row=row,
        segments=segments,
    )


# ---- recorded addresses ----------------------------------------------------------------------------


def _segments_at_end(changes: SegmentChanges, index: int) -> list[TraceSegment]:
    """What the device has reserved at the end; pages that touch are one segment."""
    found: dict[int, TraceSegment] = {}
    pages: dict[int, int] = {}
    for action, address, nbytes, stream in zip(
        changes.action.tolist(), changes.address.tolist(), changes.nbytes.tolist(), changes.stream.tolist(), strict=True
    ):
        if action == BlockAction.SEGMENT_ALLOC:
            found[address] = TraceSegment(index, address, nbytes, stream)
        elif action == BlockAction.SEGMENT_FREE:
            found.pop(address, None)
        else:
            _map(pages, address, nbytes, mapped=action == BlockAction.SEGMENT_MAP)
    for address, nbytes in pages.items():
        found[address] = TraceSegment(index, address, nbytes, expandable=True)
    return [found[address] for address in sorted(found)]


def _map(pages: dict[int, int], address: int, nbytes: int, *, mapped: bool) -> None:
    """Add pages to the stretches there are, or take them out."""
    end = address + nbytes
    kept = {}
    for start, size in pages.items():
        stop = start + size
        if stop < address or start > end:
            kept[start] = size
        elif mapped:
            address, end = min(address, start), max(end, stop)
        else:
            if start < address:
                kept[start] = address - start
            if end < stop:
                kept[end] = stop - end
    if mapped:
        kept[address] = end - address
    pages.clear()
    pages.update(kept)


def _fill(segments: list[TraceSegment], table: StorageTable, rows: IntArray, address: IntArray) -> bool:
    """Put blocks into their segments, and free ones between; False where they do not fit."""
    rows = rows[np.argsort(address[rows], kind="stable")]
    starts, sizes = address[rows], table.lifetimes.nbytes[rows]
    edges = np.array([segment.address for segment in segments], np.int64)
    first = np.searchsorted(starts, edges)
    last = np.searchsorted(starts, [segment.address + segment.nbytes for segment in segments])
    if int((last - first).sum()) != len(rows):
        return False
    for segment, low, high in zip(segments, first.tolist(), last.tolist(), strict=True):
        at = segment.address
        for where, size, row in zip(
            starts[low:high].tolist(), sizes[low:high].tolist(), rows[low:high].tolist(), strict=True
        ):
            if where < at:
                return False
            if where > at:
                segment.blocks.append(TraceBlock(at, where - at, 0, -1))
            segment.blocks.append(TraceBlock(where, size, size, row))
            at = where + size
        end = segment.address + segment.nbytes
        if at > end:
            return False
        if at < end:
            segment.blocks.append(TraceBlock(at, end - at, 0, -1))
    return True


# ---- made-up addresses -----------------------------------------------------------------------------


def _made_up(table: StorageTable, rows: IntArray, index: int) -> Trace:
    """Every storage at an address of our own, in one segment."""
    columns = table.lifetimes
    number, time_ns, _ = _events(table, rows, None)
    sizes = columns.nbytes[rows]
    rounded = (np.maximum((sizes + ALIGNMENT - 1) // ALIGNMENT, 1) * ALIGNMENT).tolist()
    space = AddressSpace(_FIRST_ADDRESS * (index + 1) * 256)
    at = [0] * len(rows)
    for event in number.tolist():
        place = event >> 1
        if event & 1:
            space.give_back(at[place], rounded[place])
        else:
            at[place] = space.take(rounded[place])
    address = np.zeros(len(columns), np.int64)
    address[rows] = at
    alive = rows[~columns.died[rows]]
    blocks = [
        TraceBlock(where, round_up(nbytes), nbytes, row)
        for where, nbytes, row in zip(
            address[alive].tolist(), columns.nbytes[alive].tolist(), alive.tolist(), strict=True
        )
    ]
    blocks += [TraceBlock(where, nbytes, 0, -1) for where, nbytes in space.holes()]
    blocks.sort(key=lambda block: block.address)
    segment = TraceSegment(index, space.base, space.end - space.base, blocks=blocks)
    column = [np.array([value], np.int64) for value in (0, time_ns[0], int(BlockAction.SEGMENT_ALLOC))]
    where = [np.array([value], np.int64) for value in (space.base, segment.nbytes, 0)]
    changes = SegmentChanges(*column, *where)
    changes.tick[0] = columns.birth_tick[rows].min()
    return _trace(table, rows, address, changes, (segment,))

"""What a PyTorch snapshot tells beyond the blocks of its trace: its segments, and what they were like at an error.

A snapshot of a run that ended in an out-of-memory error is mostly taken when the error has been raised already, and the
frames below it have let go of their tensors. How it was at the error follows from the segments by going back through
the trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from memprof.model.lifetimes import IntArray
from memprof.model.memory import MemoryModel
from memprof.model.snapshot import reserved_before, snapshot_totals
from memprof.model.storages import StorageTable, table_of
from memprof.model.stranded import lines_of_segments
from memprof.record.blocks import (
    DEFAULT_POOL,
    AllocatorHistory,
    BlockAction,
    BlockState,
    DeviceHistory,
    Segment,
)
from memprof.record.events import OutOfMemory
from memprof.record.snapshot_view import user_line

_SMALL_BYTES = 1 << 20
"""Requests up to this size are served from the small pool.

Source:
    `kSmallSize`, c10/core/AllocatorConfig.h, torch 2.14.1.
"""
_SMALL_SEGMENT_BYTES = 2 << 20
"""Size of a segment of the small pool (`kSmallBuffer`)."""


def describe_snapshot(model: MemoryModel, history: AllocatorHistory) -> MemoryModel:
    """Add what the segments of a snapshot say.

    Args:
        model: Made from the snapshot's trace and blocks.
        history: The snapshot.

    Returns:
        The model with totals, split segments, reserved memory at the peak, and errors filled in. There are no
        iterations in a snapshot, so none is named.
    """
    storages = table_of(model.storages)
    lives = storages.lifetimes
    old = {lives.devices[code] for code in np.unique(lives.device[lives.existing]).tolist()}
    totals = tuple(snapshot_totals(item, trace_complete=item.device not in old) for item in history.devices)
    reserved = {item.device: item.peak_reserved_bytes for item in totals}
    user_lines = [user_line(stack) for stack in history.stacks]
    stranded = {item.device: lines_of_segments(item.segments, user_lines) for item in history.devices}
    return replace(
        model,
        iterations=(),
        snapshot=totals,
        stranded={device: lines for device, lines in stranded.items() if lines},
        peaks={
            device: replace(peak, iteration=None, phase=None, reserved_bytes=reserved.get(device))
            for device, peak in model.peaks.items()
        },
        ooms=tuple(_ooms(model, history, storages)),
    )


def _ooms(model: MemoryModel, history: AllocatorHistory, storages: StorageTable) -> Iterator[OutOfMemory]:
    """The errors of each device, with what it held then."""
    for device in history.devices:
        found = [oom for oom in model.ooms if oom.device == device.device]
        rows = np.flatnonzero(device.events.action == BlockAction.OOM)
        if found:
            reserved = reserved_before(device)[rows].tolist()
            moments = _Moments(device, rows)
            at_error = [
                _at_error(found[number], device, moments, number, reserved[number], storages)
                for number in reversed(range(len(found)))
            ]
            yield from reversed(at_error)


def _at_error(
    oom: OutOfMemory, device: DeviceHistory, moments: _Moments, number: int, reserved: int, storages: StorageTable
) -> OutOfMemory:
    lives = storages.lifetimes
    # What goes in the same microsecond goes because of the error.
    alive = np.concatenate((storages.living.at(oom.time_ns - 1), storages.living.born(oom.time_ns, oom.time_ns)))
    code = lives.devices.index(oom.device) if oom.device in lives.devices else -1
    alive = alive[lives.device[alive] == code]
    used = [np.stack((lives.address[alive], lives.nbytes[alive]), axis=1), moments.awaiting(number)]
    segments = moments.segments(number)
    holes = None if segments is None else _holes(segments, np.concatenate(used))
    stream = int(device.events.stream[moments.rows[number]])
    large = oom.requested_bytes > _SMALL_BYTES
    return replace(
        oom,
        allocated_bytes=int(lives.nbytes[alive].sum()),
        reserved_bytes=reserved,
        largest_hole_bytes=None
        if holes is None
        else max(
            (
                largest
                for segment, _, largest, _ in holes
                if segment.stream == stream and segment.large == large and segment.pool_id == DEFAULT_POOL
            ),
            default=0,
        ),
        stranded_bytes=None
        if holes is None
        else sum(free for segment, free, _, blocks in holes if blocks and not segment.expandable),
    )


class _Moments:
    """What a device was like at some entries of its trace, going back from the snapshot.

    Args:
        device: The device as of the snapshot.
        rows: The entries, ascending; none is of a block or a segment.
    """

    def __init__(self, device: DeviceHistory, rows: IntArray) -> None:
        self.rows = rows
        self._events = events = device.events
        self._now = {segment.address: segment for segment in device.segments}
        action = events.action
        is_change = (action == BlockAction.SEGMENT_ALLOC) | (action == BlockAction.SEGMENT_FREE)
        self._changes = np.flatnonzero(is_change).tolist()
        """Changes of segments that are not undone yet."""
        is_page = (action == BlockAction.SEGMENT_MAP) | (action == BlockAction.SEGMENT_UNMAP)
        self._last_page = int(np.flatnonzero(is_page).max(initial=-1))
        self._awaiting: list[list[tuple[int, int]]] = [[] for _ in rows]
        self._find_awaiting(device.segments)

    def _find_awaiting(self, segments: tuple[Segment, ...]) -> None:
        """Blocks that were freed, and which another stream still used, at each of the entries."""
        action, address, nbytes = self._events.action, self._events.address, self._events.nbytes
        of_block = np.flatnonzero(
            (action == BlockAction.ALLOC)
            | (action == BlockAction.FREE_REQUESTED)
            | (action == BlockAction.FREE_COMPLETED)
        )
        order = of_block[np.argsort(address[of_block], kind="stable")]
        where = address[order]
        before = np.full(len(order), -1, np.int64)
        same = np.flatnonzero(where[1:] == where[:-1]) + 1
        before[same] = order[same - 1]
        completed = np.flatnonzero(action[order] == BlockAction.FREE_COMPLETED)
        first, last = np.searchsorted(self.rows, before[completed]), np.searchsorted(self.rows, order[completed])
        for place in np.flatnonzero(first < last).tolist():
            row = int(order[completed[place]])
            for number in range(int(first[place]), int(last[place])):
                self._awaiting[number].append((int(address[row]), int(nbytes[row])))
        for block in (block for segment in segments for block in segment.blocks):
            if block.state is BlockState.ACTIVE_AWAITING_FREE:  # when the snapshot was taken, as it had before
                place = int(np.searchsorted(where, block.address, side="right")) - 1
                since = int(order[place]) if place >= 0 and where[place] == block.address else -1
                for number in range(int(np.searchsorted(self.rows, since)), len(self.rows)):
                    self._awaiting[number].append((block.address, block.nbytes))

    def awaiting(self, number: int) -> IntArray:
        """Address and bytes of blocks that were freed already and still used by another stream."""
        return np.array(self._awaiting[number], np.int64).reshape(-1, 2)

    def segments(self, number: int) -> list[Segment] | None:
        """Segments as they were; None where pages of expandable ones came or went since.

        Args:
            number: Which of the entries; asked for from the last to the first.
        """
        at = int(self.rows[number])
        if at < self._last_page:
            return None
        events = self._events
        while self._changes and self._changes[-1] > at:
            row = self._changes.pop()
            address, nbytes = int(events.address[row]), int(events.nbytes[row])
            if events.action[row] == BlockAction.SEGMENT_ALLOC:
                self._now.pop(address, None)
            else:
                large = nbytes > _SMALL_SEGMENT_BYTES
                self._now[address] = Segment(
                    address, nbytes, int(events.stream[row]), large, DEFAULT_POOL, expandable=False, blocks=()
                )
        return sorted(self._now.values(), key=lambda segment: segment.address)


def _holes(segments: list[Segment], used: IntArray) -> list[tuple[Segment, int, int, int]]:
    """Each segment with what is free in it, the largest piece of that, and the blocks in use."""
    order = np.argsort(used[:, 0], kind="stable")
    starts, sizes = used[order].T
    edges = np.array([segment.address for segment in segments], np.int64)
    ends = np.array([segment.address + segment.nbytes for segment in segments], np.int64)
    first, last = np.searchsorted(starts, edges), np.searchsorted(starts, ends)
    found = []
    for segment, low, high in zip(segments, first.tolist(), last.tolist(), strict=True):
        begin = np.append(starts[low:high], segment.address + segment.nbytes)
        end = np.append(segment.address, starts[low:high] + sizes[low:high])
        gaps = np.maximum(begin - end, 0)
        found.append((segment, int(gaps.sum()), int(gaps.max()), high - low))
    return found

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
    BlockEvents,
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
        rows = np.flatnonzero(device.events.action == BlockAction.OOM).tolist()
        if found:
            reserved = reserved_before(device)
            for oom, row in zip(found, rows, strict=True):
                yield _at_error(oom, device, row, int(reserved[row]), storages)


def _at_error(oom: OutOfMemory, device: DeviceHistory, row: int, reserved: int, storages: StorageTable) -> OutOfMemory:
    lives = storages.lifetimes
    alive = np.flatnonzero(
        (lives.device == lives.devices.index(oom.device))
        & (lives.birth_ns <= oom.time_ns)
        & (~lives.died | (lives.death_ns >= oom.time_ns))
        if oom.device in lives.devices
        else np.zeros(len(lives), np.bool_)
    )
    later = _Later(device.events, row)
    used = [
        np.stack((lives.address[alive], lives.nbytes[alive]), axis=1),
        later.awaiting(),
        _awaiting_still(device.segments, later),
    ]
    segments = later.segments(device.segments)
    holes = None if segments is None else _holes(segments, np.concatenate(used))
    stream = int(device.events.stream[row])
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


class _Later:
    """What a trace says happened after one of its entries."""

    def __init__(self, events: BlockEvents, row: int) -> None:
        self._action = events.action[row + 1 :]
        self._address = events.address[row + 1 :]
        self._nbytes = events.nbytes[row + 1 :]
        self._stream = events.stream[row + 1 :]
        of_block = np.flatnonzero(
            (self._action == BlockAction.ALLOC)
            | (self._action == BlockAction.FREE_REQUESTED)
            | (self._action == BlockAction.FREE_COMPLETED)
        )
        self.met, first = np.unique(self._address[of_block], return_index=True)
        """Addresses of blocks that something happens to."""
        self._first = of_block[first]

    def awaiting(self) -> IntArray:
        """Address and bytes of blocks that were freed already and still used by another stream."""
        rows = self._first[self._action[self._first] == BlockAction.FREE_COMPLETED]
        return np.stack((self._address[rows], self._nbytes[rows]), axis=1)

    def segments(self, at_end: tuple[Segment, ...]) -> list[Segment] | None:
        """Segments as they were; None where pages of expandable ones came or went since."""
        if ((self._action == BlockAction.SEGMENT_MAP) | (self._action == BlockAction.SEGMENT_UNMAP)).any():
            return None
        found = {segment.address: segment for segment in at_end}
        rows = (self._action == BlockAction.SEGMENT_ALLOC) | (self._action == BlockAction.SEGMENT_FREE)
        for row in np.flatnonzero(rows)[::-1].tolist():
            address, nbytes = int(self._address[row]), int(self._nbytes[row])
            if self._action[row] == BlockAction.SEGMENT_ALLOC:
                found.pop(address, None)
            else:
                large = nbytes > _SMALL_SEGMENT_BYTES
                found[address] = Segment(
                    address, nbytes, int(self._stream[row]), large, DEFAULT_POOL, expandable=False, blocks=()
                )
        return sorted(found.values(), key=lambda segment: segment.address)


def _awaiting_still(segments: tuple[Segment, ...], later: _Later) -> IntArray:
    """Address and bytes of blocks that another stream still used when the snapshot was taken, as it had before."""
    met = set(later.met.tolist())
    rows = [
        (block.address, block.nbytes)
        for segment in segments
        for block in segment.blocks
        if block.state is BlockState.ACTIVE_AWAITING_FREE and block.address not in met
    ]
    return np.array(rows, np.int64).reshape(-1, 2)


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

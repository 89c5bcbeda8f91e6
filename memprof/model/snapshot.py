"""What the segments of a snapshot add up to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memprof.record.blocks import DEFAULT_POOL, BlockAction, BlockState, DeviceHistory, IntArray


@dataclass(frozen=True, slots=True)
class SnapshotTotals:
    """One device as of a snapshot, in bytes, by torch's own definitions.

    Source:
        `torch.cuda.memory_stats` and `memory_snapshot`, torch 2.14.1.
    """

    device: str
    reserved_bytes: int
    """All segments."""
    allocated_bytes: int
    """Blocks in use."""
    active_bytes: int
    """Those, and blocks freed that another stream still uses."""
    requested_bytes: int
    """What was asked for of active blocks, before rounding."""
    stranded_bytes: int
    """Free in segments partly in use, which cannot go back to the driver (expandable ones left out)."""
    largest_free_block_bytes: int
    private_pool_bytes: int
    """Segments of CUDA graphs and `torch.cuda.MemPool`."""
    segments: int
    trace_entries: int
    """0 for a snapshot without a trace."""
    trace_complete: bool
    """There is a trace, and it saw every block allocated: nothing is older."""
    peak_reserved_bytes: int | None
    """Most that was reserved during the trace; None without one."""


def snapshot_totals(history: DeviceHistory, *, trace_complete: bool = False) -> SnapshotTotals:
    """Add up the segments of one device.

    Args:
        history: The device as of a snapshot.
        trace_complete: Nothing is older than its trace.

    Returns:
        The sums.
    """
    blocks = [block for segment in history.segments for block in segment.blocks]
    active = [block for block in blocks if block.state is not BlockState.INACTIVE]
    stranded = 0
    for segment in history.segments:
        if len(segment.blocks) > 1 and not segment.expandable:
            stranded += sum(block.nbytes for block in segment.blocks if block.state is BlockState.INACTIVE)
    return SnapshotTotals(
        device=history.device,
        reserved_bytes=sum(segment.nbytes for segment in history.segments),
        allocated_bytes=sum(block.nbytes for block in active if block.state is BlockState.ACTIVE_ALLOCATED),
        active_bytes=sum(block.nbytes for block in active),
        requested_bytes=sum(block.requested_bytes for block in active),
        stranded_bytes=stranded,
        largest_free_block_bytes=max((b.nbytes for b in blocks if b.state is BlockState.INACTIVE), default=0),
        private_pool_bytes=sum(item.nbytes for item in history.segments if item.pool_id != DEFAULT_POOL),
        segments=len(history.segments),
        trace_entries=len(history.events),
        trace_complete=trace_complete and len(history.events) > 0,
        peak_reserved_bytes=int(reserved_before(history).max()) if len(history.events) else None,
    )


def reserved_before(history: DeviceHistory) -> IntArray:
    """Follow what a device had reserved, back from the snapshot through its trace.

    Args:
        history: The device as of a snapshot.

    Returns:
        Bytes before each entry of the trace, and at last those of the snapshot: one more than there are entries.
    """
    action, nbytes = history.events.action, history.events.nbytes
    grown = np.where((action == BlockAction.SEGMENT_ALLOC) | (action == BlockAction.SEGMENT_MAP), nbytes, 0)
    shrunk = np.where((action == BlockAction.SEGMENT_FREE) | (action == BlockAction.SEGMENT_UNMAP), nbytes, 0)
    now = sum(segment.nbytes for segment in history.segments)
    later = np.cumsum((grown - shrunk)[::-1])[::-1]
    before: IntArray = np.append(now - later, now)
    return before

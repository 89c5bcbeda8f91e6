"""What the segments of a snapshot add up to."""

from __future__ import annotations

from dataclasses import dataclass

from memprof.record.blocks import DEFAULT_POOL, BlockState, DeviceHistory


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


def snapshot_totals(history: DeviceHistory) -> SnapshotTotals:
    """Add up the segments of one device.

    Args:
        history: The device as of a snapshot.

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
    )

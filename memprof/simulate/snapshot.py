"""What a simulated allocator holds, in the shape of a recorded one."""

from __future__ import annotations

from collections.abc import Iterable

from memprof.record.blocks import Block as RecordedBlock
from memprof.record.blocks import BlockState, Segment
from memprof.simulate.blocks import ALLOCATED, AWAITING, FREE, Block

_STATES = {
    FREE: BlockState.INACTIVE,
    ALLOCATED: BlockState.ACTIVE_ALLOCATED,
    AWAITING: BlockState.ACTIVE_AWAITING_FREE,
}


def segments_of(blocks: Iterable[Block]) -> tuple[Segment, ...]:
    """Gather blocks into segments.

    Args:
        blocks: All that have memory, in any order.

    Returns:
        Segments in order of address; each mapped stretch of an expandable segment is one.
    """
    segments = []
    for head in blocks:
        if head.prev is not None and head.prev.mapped:
            continue
        recorded = []
        at: Block | None = head
        while at is not None and at.mapped:
            requested = 0 if at.state == FREE else at.requested
            recorded.append(RecordedBlock(at.address, at.nbytes, requested, _STATES[at.state], -1))
            at = at.next
        segments.append(
            Segment(
                address=head.address,
                nbytes=sum(block.nbytes for block in recorded),
                stream=head.stream,
                large=not head.pool.small,
                pool_id=head.pool.pool_id,
                expandable=head.expandable is not None,
                blocks=tuple(recorded),
            )
        )
    return tuple(sorted(segments, key=lambda segment: segment.address))

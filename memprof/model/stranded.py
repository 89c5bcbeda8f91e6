"""Which lines hold segments that are mostly free, so that what is free in them serves nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from memprof.model.block_sizes import segments_of
from memprof.model.memory import Account, StrandedLine
from memprof.record.blocks import BlockAction, BlockLog, BlockState, IntArray, Segment
from memprof.record.events import Location
from memprof.record.schema import BLOCK_COLUMNS, SEGMENT_COLUMNS
from memprof.simulate import AllocatorSettings, BlockReplay

_COLUMN = {name: place for place, name in enumerate(BLOCK_COLUMNS)}
_DEVICE = SEGMENT_COLUMNS.index("device")
_WORTH_BYTES = 32 << 20
"""Less than this stranded is not worth the look."""
_MOST_LINES = 3


def stranded_lines(
    log: BlockLog | None, accounts: Mapping[str, Sequence[Account]]
) -> dict[str, tuple[StrandedLine, ...]]:
    """Find who held the split segments of each device when most was stranded in them.

    Args:
        log: What the allocators did, or None where that was not recorded.
        accounts: The devices at the end of ticks.

    Returns:
        Device -> the lines whose blocks kept most free memory from use, most first.
    """
    if log is None:
        return {}
    found = {}
    for code, device in log.devices.items():
        worst = max(accounts.get(device, ()), key=lambda account: account.state.inactive_split_bytes, default=None)
        if worst is not None and worst.state.inactive_split_bytes >= _WORTH_BYTES:
            found[device] = _lines(log, code, worst.state.tick)
    return found


def lines_of_segments(segments: Sequence[Segment], user_lines: Sequence[Location | None]) -> tuple[StrandedLine, ...]:
    """Find who held the split segments of a device as of a snapshot.

    Args:
        segments: The device's.
        user_lines: The user's line by the number of a stack.

    Returns:
        The lines whose blocks kept most free memory from use, most first; () where little is.
    """
    free: dict[int, int] = {}
    used: list[tuple[Location | None, int, int]] = []
    for segment in segments:
        if not segment.expandable and len(segment.blocks) > 1:
            blocks = [block for block in segment.blocks if block.state is not BlockState.INACTIVE]
            free[segment.address] = segment.nbytes - sum(block.nbytes for block in blocks)
            used += [
                (user_lines[block.stack] if block.stack >= 0 else None, block.nbytes, segment.address)
                for block in blocks
            ]
    return _sum_up(used, free) if sum(free.values()) >= _WORTH_BYTES else ()


def _sum_up(used: Iterable[tuple[Location | None, int, int]], free: Mapping[int, int]) -> tuple[StrandedLine, ...]:
    """Lines of blocks (line, bytes, segment), by what is free in the segments they lie in."""
    sums: dict[Location | None, tuple[int, int, set[int]]] = {}
    for line, nbytes, segment in used:
        held, count, where = sums.setdefault(line, (0, 0, set()))
        where.add(segment)
        sums[line] = (held + nbytes, count + 1, where)
    lines = [
        StrandedLine(line, held, count, sum(free[segment] for segment in where))
        for line, (held, count, where) in sums.items()
    ]
    lines.sort(key=lambda line: (-line.stranded_bytes, line.used_bytes))
    return tuple(lines[:_MOST_LINES])


def _lines(log: BlockLog, code: int, tick: int) -> tuple[StrandedLine, ...]:
    start, table = max((item for item in log.starts if item[0] <= tick), key=lambda item: item[0], default=(0, None))
    rows = log.events[(log.events[:, _COLUMN["device"]] == code) & (log.ticks >= start) & (log.ticks <= tick)]
    held = () if table is None else segments_of(table[table[:, _DEVICE] == code])
    action, address, nbytes, stack = (rows[:, _COLUMN[name]] for name in ("action", "address", "nbytes", "stack"))
    replay = BlockReplay(AllocatorSettings.from_snapshot(log.settings), held)
    replay.follow_columns(action, address, nbytes)
    allocs = action == BlockAction.ALLOC
    stack_of = {block.address: block.stack for segment in held for block in segment.blocks}
    stack_of.update(zip(address[allocs].tolist(), stack[allocs].tolist(), strict=True))  # the last one counts
    segments = _segments(held, action, address, nbytes)
    starts = np.array(sorted(segments), np.int64)
    free: dict[int, int] = {}
    for at, size in replay.free_blocks.items():
        segment = _inside(at, starts, segments)
        if segment is not None:
            free[segment] = free.get(segment, 0) + size
    used = []
    for at, size in replay.live_blocks.items():
        segment = _inside(at, starts, segments)
        if segment is not None and segment in free:
            used.append((log.user_lines.get(stack_of.get(at, -1)), size, segment))
    return _sum_up(used, free)


def _segments(held: Sequence[Segment], action: IntArray, address: IntArray, nbytes: IntArray) -> dict[int, int]:
    """Segments at the end of the events, address -> bytes; expandable ones grow and shrink, and are left out."""
    segments = {segment.address: segment.nbytes for segment in held if not segment.expandable}
    changes = np.flatnonzero((action == BlockAction.SEGMENT_ALLOC) | (action == BlockAction.SEGMENT_FREE))
    for kind, at, size in zip(
        action[changes].tolist(), address[changes].tolist(), nbytes[changes].tolist(), strict=True
    ):
        if kind == BlockAction.SEGMENT_ALLOC:
            segments[at] = size
        else:
            segments.pop(at, None)
    return segments


def _inside(address: int, starts: IntArray, segments: Mapping[int, int]) -> int | None:
    """The segment an address lies in."""
    place = int(np.searchsorted(starts, address, side="right")) - 1
    if place < 0:
        return None
    start = int(starts[place])
    return start if address < start + segments[start] else None

"""What caching allocators got from the driver and gave back, where their history was recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memprof.model.blocks import placed
from memprof.model.lifetimes import IntArray
from memprof.record.blocks import BlockAction, BlockLog
from memprof.record.events import Tick
from memprof.record.schema import BLOCK_COLUMNS, NONE, SEGMENT_COLUMNS

_COLUMN = {name: place for place, name in enumerate(BLOCK_COLUMNS)}
_SEGMENT = {name: place for place, name in enumerate(SEGMENT_COLUMNS)}


@dataclass(frozen=True, slots=True, eq=False)
class SegmentChanges:
    """Segments of one device as they come and go, in order; those it had at first come first."""

    tick: IntArray
    time_ns: IntArray
    """On the clock of ticks."""
    action: IntArray
    """`SEGMENT_ALLOC`, `SEGMENT_FREE`, `SEGMENT_MAP` or `SEGMENT_UNMAP` of `BlockAction`."""
    address: IntArray
    nbytes: IntArray
    stream: IntArray

    def __len__(self) -> int:
        """Changes."""
        return len(self.tick)


def segment_changes(log: BlockLog | None, ticks: Sequence[Tick]) -> dict[str, SegmentChanges]:
    """Follow the segments of each device.

    Args:
        log: What the allocators did, or None where that was not recorded.
        ticks: Finished ticks, with their samples.

    Returns:
        Device -> its segments; none where events were lost, after which they are not known.
    """
    if log is None or len(log.starts) > 1:
        return {}
    found = {}
    for code, device in log.devices.items():
        of_device = log.events[:, _COLUMN["device"]] == code
        events, tick = log.events, log.ticks
        if not of_device.all():
            events, tick = events[of_device], tick[of_device]
        time_ns, _ = placed(events, tick, device, ticks)
        action = events[:, _COLUMN["action"]]
        rows = np.flatnonzero((action >= BlockAction.SEGMENT_ALLOC) & (action <= BlockAction.SEGMENT_UNMAP))
        columns = [
            tick[rows],
            time_ns[rows],
            *(events[rows, _COLUMN[name]] for name in ("action", "address", "nbytes", "stream")),
        ]
        first = _held(log, code, ticks)
        if len(rows) or len(first):
            found[device] = SegmentChanges(*(np.concatenate(pair) for pair in zip(first.T, columns, strict=True)))
    return found


def _held(log: BlockLog, code: int, ticks: Sequence[Tick]) -> IntArray:
    """Rows of `SegmentChanges` for what a device had when the history begins."""
    rows = []
    for start_tick, table in log.starts:
        began = next((tick.start_ns for tick in ticks if tick.index == start_tick), 0)
        of_device = table[(table[:, _SEGMENT["device"]] == code) & (table[:, _SEGMENT["segment"]] != NONE)]
        _, first = np.unique(of_device[:, _SEGMENT["segment"]], return_index=True)
        for row in of_device[first].tolist():
            action = BlockAction.SEGMENT_MAP if row[_SEGMENT["expandable"]] else BlockAction.SEGMENT_ALLOC
            where = (row[_SEGMENT["segment"]], row[_SEGMENT["segment_nbytes"]], row[_SEGMENT["stream"]])
            rows.append((start_tick, began, int(action), *where))
    return np.array(rows, np.int64).reshape(-1, 6)

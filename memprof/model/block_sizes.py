"""Sizes of the blocks of one device in a recorded history, by following the allocator through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from memprof.model.lifetimes import IntArray
from memprof.record.blocks import Block, BlockState, Segment
from memprof.record.schema import BLOCK_COLUMNS, NONE, SEGMENT_COLUMNS
from memprof.simulate import AllocatorSettings, BlockReplay

_SEGMENT = {name: place for place, name in enumerate(SEGMENT_COLUMNS)}
_COLUMN = {name: place for place, name in enumerate(BLOCK_COLUMNS)}


def block_sizes(
    starts: Sequence[tuple[int, IntArray]], events: IntArray, ticks: IntArray, settings: Mapping[str, object]
) -> IntArray:
    """Size of the block behind each event of one device.

    Args:
        starts: A tick, and what the device held when it began.
        events: Shape (events, `BLOCK_COLUMNS`), all of this device.
        ticks: Tick of each event.
        settings: `allocator_settings` of a snapshot.

    Returns:
        Bytes allocated by each `alloc`, and freed by each `free_requested` and `free_completed`; 0 for
        others. Where an allocation's segment is not known, the request rounded up.
    """
    sizes = np.zeros(len(events), np.int64)
    replay = BlockReplay(AllocatorSettings.from_snapshot(settings))
    edges = [0, *(int(np.searchsorted(ticks, tick)) for tick, _ in starts), len(events)]
    held: list[tuple[Segment, ...]] = [(), *(segments_of(table) for _, table in starts)]
    for segments, first, last in zip(held, edges, edges[1:], strict=False):
        replay.restart(segments)
        action, address, nbytes = (events[first:last, _COLUMN[name]] for name in ("action", "address", "nbytes"))
        sizes[first:last] = replay.follow_columns(action, address, nbytes).block_bytes
    return sizes


def segments_of(table: IntArray) -> tuple[Segment, ...]:
    """Segments from packed rows of one device; rows whose segment is not known are left out."""
    rows = [row for row in table.tolist() if row[_SEGMENT["segment"]] != NONE]
    return tuple(_segment(list(blocks)) for _, blocks in groupby(rows, key=lambda row: row[_SEGMENT["segment"]]))


def _segment(rows: list[list[int]]) -> Segment:
    first = dict(zip(SEGMENT_COLUMNS, rows[0], strict=True))
    return Segment(
        address=first["segment"],
        nbytes=first["segment_nbytes"],
        stream=first["stream"],
        large=bool(first["large"]),
        pool_id=(first["pool_0"], first["pool_1"]),
        expandable=bool(first["expandable"]),
        blocks=tuple(
            Block(
                row[_SEGMENT["address"]],
                row[_SEGMENT["nbytes"]],
                row[_SEGMENT["requested_bytes"]],
                BlockState(row[_SEGMENT["state"]]),
                row[_SEGMENT["stack"]],
            )
            for row in rows
        ),
    )

"""Sizes of blocks, worked out from a history that tells only what was asked for.

The caching allocator takes a free block and gives all of it, or its low end where the rest is worth
keeping. Which free block it took is known by address, so its size follows exactly.

Source:
    `CUDACachingAllocator.cpp`: `should_split`, `try_merge_blocks`, `round_size`, torch 2.14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memprof.model.lifetimes import IntArray
from memprof.record.blocks import BlockAction, BlockState
from memprof.record.schema import BLOCK_COLUMNS, SEGMENT_COLUMNS

MIN_BLOCK_BYTES = 512
SMALL_BYTES = 1 << 20
"""Requests up to this size come from the pool of small blocks; in the other a rest must exceed it."""

_UNLIMITED = 1 << 62
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
        others. Where an allocation's free block is not known, the request rounded up.
    """
    sizes = np.zeros(len(events), np.int64)
    heap = _Heap(settings)
    bounds = [int(np.searchsorted(ticks, tick)) for tick, _ in starts]
    edges = [*bounds, len(events)]
    if edges[0]:
        sizes[: edges[0]] = heap.run(events[: edges[0]])
    for (_, table), first, last in zip(starts, edges, edges[1:], strict=False):
        heap.restart(table)
        sizes[first:last] = heap.run(events[first:last])
    return sizes


class _Heap:
    """Blocks of one device by address."""

    def __init__(self, settings: Mapping[str, object]) -> None:
        limit = settings.get("max_split_size", -1)
        self._max_split = limit if isinstance(limit, int) and limit > 0 else _UNLIMITED
        table = settings.get("roundup_power2_divisions")
        self._divisions = {int(key): int(value) for key, value in table.items()} if isinstance(table, dict) else {}
        self._any_divisions = any(value > 1 for value in self._divisions.values())
        self._free: dict[int, int] = {}
        self._free_end: dict[int, int] = {}
        self._used: dict[int, int] = {}
        self._edges: set[int] = set()
        """Addresses where a segment begins: blocks do not merge across."""
        self._expandable: set[int] = set()
        """Free and used blocks of expandable segments, which split as finely as small ones."""

    def restart(self, table: IntArray) -> None:
        """Forget everything and hold what a table of `SEGMENT_COLUMNS` says."""
        self._free, self._free_end, self._used = {}, {}, {}
        self._edges, self._expandable = set(), set()
        for row in table.tolist():
            address, nbytes = row[_SEGMENT["address"]], row[_SEGMENT["nbytes"]]
            if address == row[_SEGMENT["segment"]]:
                self._edges.add(address)
            if row[_SEGMENT["expandable"]]:
                self._expandable.add(address)
            if row[_SEGMENT["state"]] == BlockState.INACTIVE:
                self._put(address, nbytes)
            else:
                self._used[address] = nbytes

    def run(self, events: IntArray) -> list[int]:
        """Follow events; gives the size for each."""
        sizes = [0] * len(events)
        used = self._used
        alloc, requested, completed = (
            int(BlockAction.ALLOC),
            int(BlockAction.FREE_REQUESTED),
            int(BlockAction.FREE_COMPLETED),
        )
        columns = (events[:, _COLUMN[name]].tolist() for name in ("action", "address", "nbytes"))
        for index, (action, address, nbytes) in enumerate(zip(*columns, strict=True)):
            if action == alloc:
                sizes[index] = used[address] = self._take(address, nbytes)
            elif action == requested:
                sizes[index] = used.get(address, 0)
            elif action == completed:
                size = used.pop(address, 0)
                sizes[index] = size
                if size:
                    self._give_back(address, size)
            elif action == BlockAction.SEGMENT_ALLOC:
                self._edges.add(address)
                self._put(address, nbytes)
            elif action == BlockAction.SEGMENT_FREE:
                self._edges.discard(address)
                self._drop(address)
            elif action == BlockAction.SEGMENT_MAP:
                self._expandable.add(address)
                self._give_back(address, nbytes)
            elif action == BlockAction.SEGMENT_UNMAP:
                self._unmap(address, nbytes)
        return sizes

    def _take(self, address: int, requested: int) -> int:
        wanted = self._rounded(requested)
        found = self._drop(address)
        if found is None or found < wanted:
            return wanted
        rest = found - wanted
        fine = address in self._expandable
        if fine or wanted <= SMALL_BYTES:
            split = rest >= MIN_BLOCK_BYTES
        else:
            split = wanted < self._max_split and rest > SMALL_BYTES
        if not split:
            return found
        if fine:
            self._expandable.add(address + wanted)
        self._put(address + wanted, rest)
        return wanted

    def _rounded(self, nbytes: int) -> int:
        if nbytes < MIN_BLOCK_BYTES:
            return MIN_BLOCK_BYTES
        if self._any_divisions:
            key = min(max(1 << (nbytes.bit_length() - 1), 1 << 20), 1 << 35) >> 20
            divisions = self._divisions.get(key, 0)
            if divisions > 1 and nbytes > MIN_BLOCK_BYTES * divisions:
                floor = 1 << (nbytes.bit_length() - 1)
                if nbytes == floor:
                    return nbytes
                quantum = floor >> (divisions.bit_length() - 1)
                if not quantum:
                    return 2 * floor
                low = nbytes & ~(quantum - 1)
                return nbytes if low == nbytes else low + quantum
        return -(-nbytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES

    def _put(self, address: int, nbytes: int) -> None:
        self._free[address] = nbytes
        self._free_end[address + nbytes] = address

    def _drop(self, address: int) -> int | None:
        nbytes = self._free.pop(address, None)
        if nbytes is not None:
            self._free_end.pop(address + nbytes, None)
        return nbytes

    def _give_back(self, address: int, nbytes: int) -> None:
        """Make a block free and merge it with free neighbours of its segment."""
        end = address + nbytes
        if end not in self._edges:
            following = self._drop(end)
            if following is not None:
                nbytes += following
        if address not in self._edges:
            before = self._free_end.get(address)
            if before is not None:
                nbytes += self._drop(before) or 0
                address = before
        self._put(address, nbytes)

    def _unmap(self, address: int, nbytes: int) -> None:
        """Take mapped pages out of the free block they lie in."""
        start = address
        if start not in self._free:
            start = max((item for item in self._free if item <= address), default=-1)
        size = self._drop(start)
        if size is None or start + size < address + nbytes:
            return
        if start < address:
            self._put(start, address - start)
        rest = start + size - (address + nbytes)
        if rest:
            self._expandable.add(address + nbytes)
            self._put(address + nbytes, rest)

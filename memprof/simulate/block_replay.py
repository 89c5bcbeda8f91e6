"""Sizes of blocks, worked out from a history that tells only what was asked for.

A trace entry carries the requested size and the address. The block at that address is as large as the free
block that was taken, or as its low end where the rest is worth keeping; which it was follows from the blocks
around, and those follow from the events before.

Source:
    `should_split`, `try_merge_blocks`, `map_block`, `unmap_block` of c10/cuda/CUDACachingAllocator.cpp, torch 2.14.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memprof.record.blocks import BlockAction, BlockEvents, BlockState, IntArray, Segment
from memprof.simulate.intervals import Intervals
from memprof.simulate.settings import AllocatorSettings
from memprof.simulate.sizes import MIN_BLOCK_BYTES, SMALL_BYTES, round_sizes

_ALLOC = int(BlockAction.ALLOC)
_FREE_REQUESTED = int(BlockAction.FREE_REQUESTED)
_FREE_COMPLETED = int(BlockAction.FREE_COMPLETED)
_SEGMENT_ALLOC = int(BlockAction.SEGMENT_ALLOC)
_SEGMENT_FREE = int(BlockAction.SEGMENT_FREE)
_SEGMENT_MAP = int(BlockAction.SEGMENT_MAP)
_SEGMENT_UNMAP = int(BlockAction.SEGMENT_UNMAP)
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class BlockUsage:
    """What each event of a chunk did, and what the device held after it; one entry an event."""

    block_bytes: IntArray
    """Size of the block that was allocated or freed; 0 for events of segments and others."""
    allocated_bytes: IntArray
    """What `torch.cuda.memory_allocated` would say."""
    active_bytes: IntArray
    """Allocated, or freed and waiting for another stream."""
    reserved_bytes: IntArray
    """What `torch.cuda.memory_reserved` would say."""


class BlockReplay:
    """Follows the blocks of one device through its history.

    Started with the segments the device held, or before it held any, every size is exact. Without them, blocks in
    segments older than the history count as their request rounded up, and the running totals start at 0: they are
    then right up to a constant.

    A segment of a `MemPool(no_split=True)` cannot be told from others, so its blocks count as their request.

    Args:
        settings: Of the allocator.
        segments: What the device held when the events begin.
    """

    def __init__(self, settings: AllocatorSettings | None = None, segments: Sequence[Segment] = ()) -> None:
        self._settings = settings or AllocatorSettings()
        self._max_split = self._settings.max_split_bytes
        self.restart(segments)

    def restart(self, segments: Sequence[Segment] = ()) -> None:
        """Forget everything, as after events were lost.

        Args:
            segments: What the device holds now.
        """
        self._fine = self._settings.expandable_segments
        self._free: dict[int, int] = {}
        """Start of a free block -> its end."""
        self._free_start: dict[int, int] = {}
        """End of a free block -> its start."""
        self._used: dict[int, int] = {}
        """Start of a block in use -> its end; negative where the size is a guess."""
        self._edges: set[int] = set()
        """Starts of segments: blocks do not merge across."""
        self._awaiting: set[int] = set()
        self._expandable = Intervals()
        allocated = active = reserved = 0
        for segment in segments:
            if segment.expandable:
                self._expandable.add(segment.address, segment.address + segment.nbytes)
            else:
                self._edges.add(segment.address)
            reserved += segment.nbytes
            for block in segment.blocks:
                end = block.address + block.nbytes
                if block.state == BlockState.INACTIVE:
                    self._free[block.address] = end
                    self._free_start[end] = block.address
                    continue
                self._used[block.address] = end
                active += block.nbytes
                if block.state == BlockState.ACTIVE_AWAITING_FREE:
                    self._awaiting.add(block.address)
                else:
                    allocated += block.nbytes
        self.allocated_bytes = allocated
        """Bytes in allocated blocks now."""
        self.active_bytes = active
        """Bytes in allocated blocks, and in those waiting for another stream, now."""
        self.reserved_bytes = reserved
        """Bytes obtained from the driver, now."""

    @property
    def live_blocks(self) -> Mapping[int, int]:
        """Address -> bytes of every block in use now, those waiting for another stream included."""
        return {start: abs(end) - start for start, end in self._used.items()}

    @property
    def free_blocks(self) -> Mapping[int, int]:
        """Address -> bytes of every free block that is known now."""
        return {start: end - start for start, end in self._free.items()}

    def follow(self, events: BlockEvents) -> BlockUsage:
        """Follow the next events, and say what the device held after each.

        Args:
            events: Of this device, after those followed before.

        Returns:
            Sizes and running totals in bytes.
        """
        return self.follow_columns(events.action, events.address, events.nbytes)

    def follow_columns(
        self, action: np.ndarray[tuple[int], np.dtype[np.integer]], address: IntArray, nbytes: IntArray
    ) -> BlockUsage:
        """`follow`, for events that are not kept as `BlockEvents`.

        Args:
            action: Values of `BlockAction`; shape (events,).
            address: Shape (events,).
            nbytes: As in `BlockEvents`; shape (events,).

        Returns:
            Sizes and running totals in bytes.
        """
        is_segment = (action >= _SEGMENT_ALLOC) & (action <= _SEGMENT_UNMAP)
        wanted = np.where(is_segment, nbytes, round_sizes(nbytes, self._settings))
        sizes = np.empty(len(action), np.int64)
        for first in range(0, len(action), _PIECE):  # as lists, numbers take several times as much memory
            piece = slice(first, first + _PIECE)
            sizes[piece] = self._run(action[piece].tolist(), address[piece].tolist(), wanted[piece].tolist())
        allocs = np.where(action == _ALLOC, sizes, 0)
        allocated = np.cumsum(allocs - np.where(action == _FREE_REQUESTED, sizes, 0)) + self.allocated_bytes
        active = np.cumsum(allocs - np.where(action == _FREE_COMPLETED, sizes, 0)) + self.active_bytes
        grown = np.where((action == _SEGMENT_ALLOC) | (action == _SEGMENT_MAP), nbytes, 0)
        shrunk = np.where((action == _SEGMENT_FREE) | (action == _SEGMENT_UNMAP), nbytes, 0)
        reserved = np.cumsum(grown - shrunk) + self.reserved_bytes
        if len(sizes):
            self.allocated_bytes = int(allocated[-1])
            self.active_bytes = int(active[-1])
            self.reserved_bytes = int(reserved[-1])
        return BlockUsage(sizes, allocated, active, reserved)

    def _run(self, actions: list[int], addresses: list[int], wanteds: list[int]) -> list[int]:
        """Size of the block of each event. One long loop on local names: it sees every event of a run."""
        free, free_start, used, edges, awaiting = self._free, self._free_start, self._used, self._edges, self._awaiting
        take, leave, use, unuse = free.pop, free_start.pop, used.get, used.pop
        wait, waited = awaiting.add, awaiting.discard
        max_split, fine = self._max_split, self._fine
        sizes: list[int] = []
        size_is = sizes.append
        for action, address, wanted in zip(actions, addresses, wanteds, strict=True):
            if action == _ALLOC:
                end = take(address, 0)
                rest = end - address - wanted
                if rest < 0:  # not known to be free: the history began later, or has a hole
                    if end:
                        leave(end, None)
                    used[address] = -(address + wanted)
                    size_is(wanted)
                    continue
                if rest >= MIN_BLOCK_BYTES and (
                    wanted <= SMALL_BYTES
                    or (rest > SMALL_BYTES and wanted < max_split)
                    or fine
                    or address in self._expandable
                ):
                    cut = address + wanted
                    free[cut] = end
                    free_start[end] = cut
                    used[address] = cut
                    size_is(wanted)
                else:
                    leave(end, None)
                    used[address] = end
                    size_is(end - address)
            elif action == _FREE_REQUESTED:
                end = use(address, 0)
                wait(address)
                size_is((end - address if end > 0 else -end - address) if end else wanted)
            elif action == _FREE_COMPLETED:
                waited(address)
                end = unuse(address, 0)
                if end <= 0:
                    size_is(-end - address if end else wanted)
                    continue
                size_is(end - address)
                if end in free and end not in edges:
                    end = take(end)
                if address in free_start and address not in edges:
                    address = leave(address)
                free[address] = end
                free_start[end] = address
            else:
                size_is(0)
                if action == _SEGMENT_ALLOC:
                    fine = False
                    edges.add(address)
                    self._expandable.remove(address, address + wanted)
                    free[address] = address + wanted
                    free_start[address + wanted] = address
                elif action == _SEGMENT_MAP:
                    fine = True
                    self._map(address, address + wanted)
                elif action == _SEGMENT_FREE:
                    edges.discard(address)
                    leave(take(address, 0), None)
                elif action == _SEGMENT_UNMAP:
                    self._unmap(address, address + wanted)
        self._fine = fine
        return sizes

    def _map(self, start: int, end: int) -> None:
        """Make pages of an expandable segment free memory."""
        self._expandable.add(start, end)
        free, free_start = self._free, self._free_start
        if end in free and end not in self._edges:
            end = free.pop(end)
        if start in free_start and start not in self._edges:
            start = free_start.pop(start)
        free[start] = end
        free_start[end] = start

    def _unmap(self, start: int, end: int) -> None:
        """Take pages out of the free block they lie in."""
        self._expandable.remove(start, end)
        free, free_start = self._free, self._free_start
        block = start if start in free else free_start.get(end)
        if block is None:
            block = next((at for at, to in free.items() if at < start and end < to), None)
        if block is None:
            return
        block_end = free.pop(block)
        free_start.pop(block_end, None)
        if block < start:
            free[block] = start
            free_start[start] = block
        if end < block_end:
            free[end] = block_end
            free_start[block_end] = end

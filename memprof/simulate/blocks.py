"""Blocks, and the pools that keep the free ones in order."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING

from memprof.simulate.statistics import Tally

if TYPE_CHECKING:
    from memprof.simulate.expandable import ExpandableSegment

FREE, ALLOCATED, AWAITING = 0, 1, 2
"""States of a block; unmapped blocks are free too."""

ADDRESS_BITS = 57
ADDRESS = (1 << ADDRESS_BITS) - 1
AGE_BITS = 40
SHIFT = ADDRESS_BITS + AGE_BITS
"""Free blocks are in order of `size << SHIFT | place`, where the place is the age of the segment, then the address."""


OLDEST_FIRST_SINCE = (2, 11)
"""Version from which, of free blocks of one size, that in the oldest segment is taken, and not that at the lowest
address. Seen in 2.14.1 (`BlockComparatorSizeCounterAddress`); sources of 2.10 compare addresses."""


class Ages:
    """Numbers the segments of a device as they are obtained.

    Args:
        torch_version: Before `OLDEST_FIRST_SINCE` all get the same number, so that addresses decide.
    """

    def __init__(self, torch_version: tuple[int, int]) -> None:
        self._last = 0
        self._step = 1 << ADDRESS_BITS if torch_version >= OLDEST_FIRST_SINCE else 0

    def next(self) -> int:
        """The age of a new segment, as part of a key."""
        self._last += self._step
        return self._last


class Block:
    """A piece of a segment, with its neighbours in it."""

    __slots__ = (
        "address",
        "age",
        "events",
        "expandable",
        "gc_base",
        "mapped",
        "nbytes",
        "next",
        "pool",
        "prev",
        "requested",
        "state",
        "stream",
        "stream_uses",
    )

    def __init__(
        self,
        pool: Pool,
        stream: int,
        address: int,
        nbytes: int,
        age: int,
        expandable: ExpandableSegment | None = None,
    ) -> None:
        self.pool = pool
        self.stream = stream
        self.address = address
        self.nbytes = nbytes
        self.age = age
        self.expandable = expandable
        self.requested = 0
        self.state = FREE
        self.mapped = True
        self.prev: Block | None = None
        self.next: Block | None = None
        self.events = 0
        self.stream_uses: set[int] | None = None
        self.gc_base = 0

    @property
    def is_split(self) -> bool:
        """Whether it is less than a whole segment."""
        return self.prev is not None or self.next is not None

    def put_between(self, before: Block | None, after: Block | None) -> None:
        """Make it the neighbour of two blocks that are neighbours now."""
        self.prev = before
        if before is not None:
            before.next = self
        self.next = after
        if after is not None:
            after.prev = self


class Pool:
    """Free blocks for small or for large requests, in the order (stream, size, address).

    Args:
        small: Whether it is for blocks up to 1 MiB.
        pool_id: `(0, 0)` for the default pool.
    """

    __slots__ = ("blocks", "calls", "keys", "pool_id", "small", "tally", "unmapped", "unmapped_at")

    def __init__(self, *, small: bool, pool_id: tuple[int, int]) -> None:
        self.small = small
        self.pool_id = pool_id
        self.keys: dict[int, list[int]] = {}
        """Stream -> sorted `size << SHIFT | age | address` of its free blocks."""
        self.blocks: dict[int, Block] = {}
        """Free blocks by address."""
        self.unmapped: dict[int, list[int]] = {}
        """Stream -> sorted addresses of the pieces of expandable segments without memory."""
        self.unmapped_at: dict[int, Block] = {}
        self.calls = 0
        """Searches so far, counted where old free blocks may be returned: the clock of their age."""
        self.tally = Tally()

    def insert(self, block: Block) -> None:
        """Take a free block in."""
        block.gc_base = self.calls
        keys = self.keys.get(block.stream)
        if keys is None:
            keys = self.keys[block.stream] = []
        insort(keys, block.nbytes << SHIFT | block.age | block.address)
        self.blocks[block.address] = block

    def remove(self, block: Block) -> None:
        """Let a free block go."""
        keys = self.keys[block.stream]
        del keys[bisect_left(keys, block.nbytes << SHIFT | block.age | block.address)]
        del self.blocks[block.address]

    def insert_unmapped(self, block: Block) -> None:
        """Take in a piece of an expandable segment without memory."""
        insort(self.unmapped.setdefault(block.stream, []), block.address)
        self.unmapped_at[block.address] = block

    def remove_unmapped(self, block: Block) -> None:
        """Let go a piece of an expandable segment without memory."""
        addresses = self.unmapped[block.stream]
        del addresses[bisect_left(addresses, block.address)]
        del self.unmapped_at[block.address]

    def in_order(self) -> Iterator[Block]:
        """All free blocks, as they are when the iteration starts."""
        for key in [key for stream in sorted(self.keys) for key in self.keys[stream]]:
            yield self.blocks[key & ADDRESS]

    def merge(self, into: Block, neighbour: Block | None) -> int:
        """Join a neighbour that is free too, and has memory or not as `into` does.

        Args:
            into: A block that is in no set now.
            neighbour: The block before or after.

        Returns:
            Bytes that were joined; 0 where the neighbour cannot be.
        """
        if neighbour is None or neighbour.state != FREE or neighbour.mapped != into.mapped:
            return 0
        if neighbour.mapped:
            self.remove(neighbour)
        else:
            self.remove_unmapped(neighbour)
        if into.prev is neighbour:
            into.address = neighbour.address
            into.prev = neighbour.prev
            if into.prev is not None:
                into.prev.next = into
        else:
            into.next = neighbour.next
            if into.next is not None:
                into.next.prev = into
        into.nbytes += neighbour.nbytes
        return neighbour.nbytes

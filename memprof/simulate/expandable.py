"""Expandable segments: ranges of addresses that get memory page by page.

Source:
    `ExpandableSegment`, `find_expandable_block`, `map_block`, `unmap_block` of c10/cuda/CUDACachingAllocator.cpp,
    torch 2.14.1.
"""

from __future__ import annotations

from memprof.simulate.blocks import FREE, Ages, Block, Pool
from memprof.simulate.driver import Driver
from memprof.simulate.settings import AllocatorSettings
from memprof.simulate.sizes import SMALL_BUFFER_BYTES
from memprof.simulate.statistics import Statistics


class ExpandableSegment:
    """A reserved range of addresses.

    Args:
        address: Where it begins.
        page_bytes: Memory comes and goes in pieces of this size.
        pages: Pages there is room for.
    """

    __slots__ = ("address", "nbytes", "page_bytes")

    def __init__(self, address: int, page_bytes: int, pages: int) -> None:
        self.address = address
        self.page_bytes = page_bytes
        self.nbytes = page_bytes * pages


class ExpandableSegments:
    """All expandable segments of a device.

    Args:
        driver: Gives pages.
        statistics: Counts them.
        settings: Of the allocator.
        ages: Numbers segments.
    """

    def __init__(self, driver: Driver, statistics: Statistics, settings: AllocatorSettings, ages: Ages) -> None:
        self._driver = driver
        self.ages = ages
        self._statistics = statistics
        self.settings = settings
        self.count = 0
        """Segments there are."""

    def allocate(self, pool: Pool, stream: int, nbytes: int) -> Block | None:
        """Get memory mapped for a block.

        Args:
            pool: That the block is for.
            stream: That the block is for.
            nbytes: Rounded size.

        Returns:
            A block at least that large, taken out of the pool; None where memory does not suffice. What was mapped
            before it ran out stays.
        """
        block = self._find(pool, stream, nbytes)
        if not block.mapped and not self._map(block, min(block.nbytes, nbytes)):
            return None
        while block.nbytes < nbytes:
            following = block.next
            assert following is not None
            if not self._map(following, min(nbytes - block.nbytes, following.nbytes)):
                return None
            block = following
        pool.remove(block)
        return block

    def _find(self, pool: Pool, stream: int, nbytes: int) -> Block:
        """First free block or address space, from which `nbytes` are free or can be mapped in one piece."""
        for address in pool.unmapped.get(stream, ()):
            block = pool.unmapped_at[address]
            if block.prev is not None and block.prev.state == FREE:
                block = block.prev
            room = 0
            at: Block | None = block
            while room < nbytes and at is not None and at.state == FREE:
                room += at.nbytes
                at = at.next
            if room >= nbytes:
                return block
        page = SMALL_BUFFER_BYTES if pool.small else self.settings.large_segment_bytes
        total = self._driver.total_bytes
        pages = -(-(total + total // 8) // page)
        segment = ExpandableSegment(self._driver.reserve(page * pages), page, pages)
        block = Block(pool, stream, segment.address, segment.nbytes, self.ages.next(), segment)
        block.mapped = False
        pool.insert_unmapped(block)
        self.count += 1
        return block

    def _map(self, block: Block, nbytes: int) -> bool:
        """Give the low end of an unmapped block memory, and join it with free neighbours."""
        segment, pool = block.expandable, block.pool
        assert segment is not None
        page = segment.page_bytes
        first = (block.address - segment.address) // page
        last = -(-(block.address + nbytes - segment.address) // page)
        for done in range(last - first):
            if not self._driver.create(page):
                for _ in range(done):
                    self._driver.destroy(page)
                return False
        mapped = (last - first) * page
        pool.remove_unmapped(block)
        block.mapped = True
        if mapped < block.nbytes:
            rest = Block(pool, block.stream, block.address + mapped, block.nbytes - mapped, block.age, segment)
            rest.mapped = False
            rest.put_between(block, block.next)
            block.nbytes = mapped
            pool.insert_unmapped(rest)
        pool.merge(block, block.prev)
        pool.merge(block, block.next)
        pool.insert(block)
        self._statistics.reserved_grows(pool.tally, mapped, segments=0)
        return True

    def unmap(self, block: Block) -> None:
        """Give back the whole pages of a free block, and the segment if nothing is left of it.

        Args:
            block: In its pool.
        """
        segment, pool = block.expandable, block.pool
        assert segment is not None
        page = segment.page_bytes
        start = segment.address + -(-(block.address - segment.address) // page) * page
        end = segment.address + (block.address + block.nbytes - segment.address) // page * page
        if start >= end:
            return
        for _ in range((end - start) // page):
            self._driver.destroy(page)
        pool.remove(block)
        if start > block.address:
            sliver = Block(pool, block.stream, block.address, start - block.address, block.age, segment)
            sliver.put_between(block.prev, block)
            pool.insert(sliver)
        if end < block.address + block.nbytes:
            sliver = Block(pool, block.stream, end, block.address + block.nbytes - end, block.age, segment)
            sliver.put_between(block, block.next)
            pool.insert(sliver)
        block.address, block.nbytes, block.mapped = start, end - start, False
        pool.merge(block, block.prev)
        pool.merge(block, block.next)
        self._statistics.reserved_shrinks(pool.tally, end - start, segments=0)
        if block.is_split:
            pool.insert_unmapped(block)
        else:
            self._driver.release(segment.address)
            self.count -= 1


def with_room(block: Block) -> int:
    """Size of a block with the address space after it that can be mapped."""
    following = block.next
    return block.nbytes + (following.nbytes if following is not None and not following.mapped else 0)

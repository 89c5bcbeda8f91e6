"""Ways to give free memory back to the driver.

Source:
    `release_available_cached_blocks`, `release_cached_blocks`, `garbage_collect_cached_blocks` of
    c10/cuda/CUDACachingAllocator.cpp, torch 2.14.1.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from memprof.record.blocks import DEFAULT_POOL
from memprof.simulate.blocks import ADDRESS, SHIFT, Block, Pool
from memprof.simulate.settings import UNLIMITED

if TYPE_CHECKING:
    from memprof.simulate.allocator import CachingAllocator


def release_cached(allocator: CachingAllocator) -> None:
    """Give back every free block that is a whole segment, and the whole pages of those in expandable segments.

    Args:
        allocator: Whose events are complete.
    """
    small, large = allocator.pools[DEFAULT_POOL]
    for pool in (large, small):
        expandable = []
        for block in pool.in_order():
            if block.expandable is not None:
                expandable.append(block)
            elif not block.is_split:
                _release(allocator, block)
        for block in expandable:
            allocator.expandable.unmap(block)


def release_available(allocator: CachingAllocator, pool: Pool, stream: int, nbytes: int) -> bool:
    """With a `max_split_size`: give back blocks too large to be split, as few as make room.

    Args:
        allocator: Whose blocks they are.
        pool: That memory is needed for.
        stream: That memory is needed for.
        nbytes: Rounded size of the block.

    Returns:
        Whether as much as is needed was given back.
    """
    limit = allocator.settings.max_split_bytes
    if limit == UNLIMITED:
        return False
    needed = max(nbytes, limit)
    keys = pool.keys.get(stream, [])
    at = bisect_left(keys, needed << SHIFT)
    if at < len(keys):
        block = pool.blocks[keys[at] & ADDRESS]
        if block.expandable is None:
            _release(allocator, block)
            return True
    released = 0
    while at > 0 and released < needed:
        at -= 1
        block = pool.blocks[keys[at] & ADDRESS]
        if block.nbytes < limit:
            break
        if block.expandable is None:
            released += block.nbytes
            _release(allocator, block)
    return released >= needed


def collect_garbage(allocator: CachingAllocator, pool: Pool) -> None:
    """Give back the oldest segments that are free, where more than a part of the limit is reserved.

    Args:
        allocator: With a limit and a threshold.
        pool: Of large blocks.
    """
    limit = allocator.limit_bytes or 0
    threshold = int(allocator.settings.garbage_collection_threshold * limit)
    reserved = allocator.reserved_bytes
    if reserved <= threshold:
        return
    target = reserved - threshold
    whole = [block for block in pool.in_order() if not block.is_split]
    freeable = len(whole)
    ages = sum(pool.calls - block.gc_base for block in whole)
    released = 0
    found = True
    while released < target and found and freeable > 0:
        found = False
        threshold_age = ages / freeable
        for block in list(whole):
            age = pool.calls - block.gc_base
            if block.expandable is None and age >= threshold_age:
                found = True
                released += block.nbytes
                ages -= age
                freeable -= 1
                whole.remove(block)
                _release(allocator, block)


def _release(allocator: CachingAllocator, block: Block) -> None:
    pool = block.pool
    allocator.driver.free(block.address)
    allocator.statistics.reserved_shrinks(pool.tally, block.nbytes, segments=1)
    if block.nbytes >= allocator.settings.max_split_bytes:
        allocator.statistics.oversize_segments.down()
    pool.remove(block)

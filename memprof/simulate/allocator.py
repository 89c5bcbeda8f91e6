"""The native caching allocator of one device, exact to the address.

Source:
    `DeviceCachingAllocator` of c10/cuda/CUDACachingAllocator.cpp, torch 2.14.1.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

from memprof._errors import UsageError
from memprof.record.blocks import DEFAULT_POOL, Segment
from memprof.simulate import reclaim
from memprof.simulate.blocks import ADDRESS, ALLOCATED, AWAITING, FREE, SHIFT, Ages, Block, Pool
from memprof.simulate.driver import Driver, FirstFitDriver
from memprof.simulate.events import EventPolicy, complete_at_once
from memprof.simulate.expandable import ExpandableSegments, with_room
from memprof.simulate.out_of_memory import SimulatedOutOfMemory
from memprof.simulate.settings import NO_DIVISIONS, UNLIMITED, AllocatorSettings
from memprof.simulate.sizes import IMPOSSIBLE_BYTES, MIN_BLOCK_BYTES, SMALL_BYTES, driver_size, round_size
from memprof.simulate.snapshot import segments_of
from memprof.simulate.statistics import Statistics


class CachingAllocator:
    """What `torch.cuda` does with memory, as a state machine.

    Private pools (of CUDA graphs and `torch.cuda.MemPool`), captures and memory shared between processes are not
    modelled; a pool is named in every block so that they can be.

    Args:
        total_bytes: Memory of the device; ignored where a driver is given.
        settings: How memory is divided.
        driver: Where segments come from.
        events: Decides when another stream is done with a block that was freed.
        torch_version: Whose choices to make.
    """

    def __init__(
        self,
        total_bytes: int = 1 << 40,
        settings: AllocatorSettings | None = None,
        *,
        driver: Driver | None = None,
        events: EventPolicy = complete_at_once,
        torch_version: tuple[int, int] = (2, 14),
    ) -> None:
        self.driver: Driver = driver or FirstFitDriver(total_bytes)
        self.pools = {DEFAULT_POOL: (Pool(small=True, pool_id=DEFAULT_POOL), Pool(small=False, pool_id=DEFAULT_POOL))}
        """Pool id -> its pools for small and for large requests."""
        self._small, self._large = self.pools[DEFAULT_POOL]
        self.statistics = Statistics(self._small.tally, self._large.tally)
        self._live: dict[int, Block] = {}
        self._policy = events
        self._events: dict[int, deque[tuple[int, Block]]] = {}
        self._recorded_events = 0
        self._rising = False
        """Something was allocated since peaks were noted."""
        self.limit_bytes: int | None = None
        """What the process may reserve; None for all there is."""
        self.expandable = ExpandableSegments(
            self.driver,
            self.statistics,
            settings or AllocatorSettings(),
            Ages(torch_version),
        )
        self.configure(self.expandable.settings)
        if self.settings.per_process_memory_fraction is not None:
            self.set_memory_fraction(self.settings.per_process_memory_fraction)

    def configure(self, settings: AllocatorSettings) -> None:
        """Go on with other settings, as `torch.cuda.memory._set_allocator_settings` does.

        Args:
            settings: From the next call on. Their memory fraction is not looked at: it counts when a process begins.

        Raises:
            UsageError: They choose an allocator that is not modelled.
        """
        if settings.backend != "native":
            raise UsageError(f"the {settings.backend} allocator is not modelled; only backend:native is")
        self.settings = self.expandable.settings = settings
        self._plain_rounding = settings.roundup_power2_divisions == NO_DIVISIONS
        self._choose_search()

    def set_memory_fraction(self, fraction: float) -> None:
        """Limit what may be reserved, as `torch.cuda.set_per_process_memory_fraction` does.

        Args:
            fraction: Part of the device's memory, from 0 to 1.
        """
        self.limit_bytes = int(fraction * self.driver.total_bytes) if fraction < 1 else None
        self._choose_search()

    def _choose_search(self) -> None:
        settings = self.settings
        self._collects = self.limit_bytes is not None and settings.garbage_collection_threshold > 0
        self._plain_search = not (
            self._collects
            or settings.expandable_segments
            or self.expandable.count
            or settings.max_split_bytes != UNLIMITED
        )

    # ---- what a program does -----------------------------------------------------------

    def malloc(self, nbytes: int, stream: int = 0) -> int:
        """Allocate a block.

        Args:
            nbytes: Size asked for.
            stream: That will use it; any number stands for a stream.

        Returns:
            Its address; 0 for 0 bytes, which allocate nothing.

        Raises:
            SimulatedOutOfMemory: No memory is left for it.
        """
        if nbytes >= IMPOSSIBLE_BYTES:
            raise self._out_of_memory(nbytes)
        if nbytes <= 0:
            return 0
        if self._events:
            self.process_events()
        size = (nbytes + 511) & -512 if self._plain_rounding else round_size(nbytes, self.settings)
        pool = self._small if size <= SMALL_BYTES else self._large
        if self._plain_search:
            keys = pool.keys.get(stream)
            block = None
            if keys:
                at = bisect_left(keys, size << SHIFT)
                if at < len(keys):
                    block = pool.blocks.pop(keys.pop(at) & ADDRESS)
        else:
            block = self._search(pool, stream, size)
        if block is None:
            block = self._obtain(pool, stream, size)
            if block is None:
                self.statistics.num_ooms += 1
                raise self._out_of_memory(nbytes)
        rest = block.nbytes - size
        settings = self.settings
        if rest >= MIN_BLOCK_BYTES and (
            size <= SMALL_BYTES
            or settings.expandable_segments
            or (rest > SMALL_BYTES and size < settings.max_split_bytes)
        ):
            # The block found keeps its identity and becomes the rest; a new one takes the low addresses.
            address = block.address
            before = block.prev
            taken = Block(pool, stream, address, size, block.age, block.expandable)
            taken.prev = before
            taken.next = block
            block.prev = taken
            block.address = address + size
            block.nbytes = rest
            block.gc_base = pool.calls
            insort(pool.keys[stream], rest << SHIFT | block.age | address + size)
            pool.blocks[address + size] = block
            if before is not None:
                before.next = taken
            if block.expandable is None:
                if before is not None or block.next is not None:
                    pool.tally.inactive_split_bytes -= size
                else:
                    self.statistics.split_changes(pool.tally, 1, rest)
        else:
            taken = block
            size = block.nbytes
            if block.expandable is None and (block.prev is not None or block.next is not None):
                self.statistics.split_changes(pool.tally, -1, -size)
        taken.state = ALLOCATED
        taken.requested = nbytes
        self._live[taken.address] = taken
        tally = pool.tally
        tally.allocation_ever += 1
        tally.allocated_bytes_ever += size
        tally.requested_bytes_ever += nbytes
        self._rising = True
        if size >= settings.max_split_bytes:
            self.statistics.oversize_allocations.up()
        return taken.address

    def free(self, address: int) -> None:
        """Free a block; it stays active while another stream uses it.

        Args:
            address: That `malloc` returned; 0 does nothing.

        Raises:
            UsageError: Nothing is allocated there.
        """
        block = self._live.get(address)
        if block is None or block.state != ALLOCATED:
            if address == 0:
                return
            raise UsageError(f"no block is allocated at {address:#x}; free each address that malloc returned once")
        if self._rising:
            self._rising = False
            self.statistics.mark()
        tally = block.pool.tally
        tally.allocation_freed += 1
        tally.allocated_bytes_freed += block.nbytes
        if block.nbytes >= self.settings.max_split_bytes:
            self.statistics.oversize_allocations.down()
        if block.stream_uses:
            block.state = AWAITING
            self.statistics.awaits(tally, block.nbytes)
            for stream in sorted(block.stream_uses):
                block.events += 1
                self._events.setdefault(stream, deque()).append((self._recorded_events, block))
                self._recorded_events += 1
            block.stream_uses = None
        else:
            self._release_block(block)

    def record_stream(self, address: int, stream: int) -> None:
        """Note that another stream uses a block, as `Tensor.record_stream` does.

        Args:
            address: That `malloc` returned.
            stream: Ignored where it is the one the block was allocated for.

        Raises:
            UsageError: Nothing is allocated there.
        """
        block = self._live.get(address)
        if block is None or block.state != ALLOCATED:
            raise UsageError(f"no block is allocated at {address:#x}")
        if stream != block.stream:
            if block.stream_uses is None:
                block.stream_uses = set()
            block.stream_uses.add(stream)

    def empty_cache(self) -> None:
        """Wait for all streams and give the driver back what is free, as `torch.cuda.empty_cache` does."""
        self.synchronize()
        reclaim.release_cached(self)

    def process_events(self) -> None:
        """Free blocks that no stream uses any more; every `malloc` begins with it."""
        for stream, queue in list(self._events.items()):
            while queue and self._policy(stream, queue[0][0]):
                self._finish(queue.popleft()[1])
            if not queue:
                del self._events[stream]

    def synchronize(self) -> None:
        """Wait until no stream uses blocks that were freed."""
        self.statistics.num_sync_all_streams += 1
        for queue in self._events.values():
            for _, block in queue:
                self._finish(block)
        self._events.clear()

    # ---- what it knows -----------------------------------------------------------------

    @property
    def allocated_bytes(self) -> int:
        """What `torch.cuda.memory_allocated` says."""
        return self._small.tally.allocated_bytes + self._large.tally.allocated_bytes

    @property
    def reserved_bytes(self) -> int:
        """What `torch.cuda.memory_reserved` says."""
        return self._small.tally.reserved_bytes + self._large.tally.reserved_bytes

    def memory_stats(self) -> dict[str, int]:
        """Counters named as in `torch.cuda.memory_stats`; private pools count in none of them."""
        limit = self.settings.max_split_bytes
        return self.statistics.as_dict(-1 if limit == UNLIMITED else limit)

    def reset_peak(self) -> None:
        """What `torch.cuda.reset_peak_memory_stats` does."""
        self.statistics.reset_peak()

    def snapshot(self) -> tuple[Segment, ...]:
        """What it holds, as `torch.cuda.memory._snapshot` tells it, in order of address."""
        free = (block for pools in self.pools.values() for pool in pools for block in pool.blocks.values())
        return segments_of([*self._live.values(), *free])

    # ---- inside ------------------------------------------------------------------------

    def _search(self, pool: Pool, stream: int, size: int) -> Block | None:
        """Take the best free block out of the pool, with all that settings add to best fit."""
        settings = self.settings
        if self._collects:
            pool.calls += 1
        keys = pool.keys.get(stream)
        if not keys:
            return None
        at = bisect_left(keys, size << SHIFT)
        if at == len(keys):
            return None
        blocks = pool.blocks
        block = blocks[keys[at] & ADDRESS]
        if settings.expandable_segments:
            while block.expandable is not None and at + 1 < len(keys):
                following = blocks[keys[at + 1] & ADDRESS]
                if with_room(following) >= with_room(block):
                    break
                at += 1
                block = following
        else:
            while block.expandable is not None:
                at += 1
                if at == len(keys):
                    return None
                block = blocks[keys[at] & ADDRESS]
        limit = settings.max_split_bytes
        if size < limit:
            if block.nbytes >= limit:
                return None
        elif block.nbytes >= size + settings.max_non_split_rounding_bytes:
            return None
        del keys[at]
        return blocks.pop(block.address)

    def _obtain(self, pool: Pool, stream: int, size: int) -> Block | None:
        """Get memory from the driver, giving back more and more of what is free until it succeeds."""
        if self._collects:
            reclaim.collect_garbage(self, self._large)
        asked = driver_size(size, self.settings)
        block = self._from_driver(pool, stream, size, asked)
        if block is None and reclaim.release_available(self, pool, stream, size):
            block = self._from_driver(pool, stream, size, asked)
        if block is None:
            self.empty_cache()
            self.statistics.num_alloc_retries += 1
            block = self._from_driver(pool, stream, size, asked)
        return block

    def _from_driver(self, pool: Pool, stream: int, size: int, asked: int) -> Block | None:
        limit = self.limit_bytes
        if limit is not None and self.reserved_bytes + asked > limit:
            return None
        if self.settings.expandable_segments:
            self._plain_search = False
            return self.expandable.allocate(pool, stream, size)
        address = self.driver.malloc(asked)
        if address is None:
            return None
        self.statistics.reserved_grows(pool.tally, asked, segments=1)
        if asked >= self.settings.max_split_bytes:
            self.statistics.oversize_segments.up()
        pool.keys.setdefault(stream, [])
        return Block(pool, stream, address, asked, self.expandable.ages.next())

    def _finish(self, block: Block) -> None:
        """An event of a block is complete."""
        block.events -= 1
        if block.events == 0:
            if self._rising:
                self._rising = False
                self.statistics.mark()
            tally = block.pool.tally
            tally.awaiting -= 1
            tally.awaiting_bytes -= block.nbytes
            self._release_block(block)

    def _release_block(self, block: Block) -> None:
        """Make a block free, and join it with free neighbours; peaks have been noted."""
        pool = block.pool
        del self._live[block.address]
        block.state = FREE
        tally = pool.tally
        tally.requested_bytes_freed += block.requested
        blocks = nbytes = 0
        before = block.prev
        if before is not None and before.state == FREE and before.mapped:
            nbytes -= pool.merge(block, before)
            blocks -= 1
        after = block.next
        if after is not None and after.state == FREE and after.mapped:
            nbytes -= pool.merge(block, after)
            blocks -= 1
        block.gc_base = pool.calls
        insort(pool.keys[block.stream], block.nbytes << SHIFT | block.age | block.address)
        pool.blocks[block.address] = block
        if block.expandable is None:
            if block.prev is not None or block.next is not None:
                blocks += 1
                nbytes += block.nbytes
            if blocks or nbytes:
                self.statistics.split_changes(tally, blocks, nbytes)

    def _out_of_memory(self, nbytes: int) -> SimulatedOutOfMemory:
        return SimulatedOutOfMemory(
            requested_bytes=nbytes,
            free_bytes=self.driver.free_bytes,
            total_bytes=self.driver.total_bytes,
            limit_bytes=self.limit_bytes,
            allocated_bytes=self.allocated_bytes,
            reserved_bytes=self.reserved_bytes,
        )

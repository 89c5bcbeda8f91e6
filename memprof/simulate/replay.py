"""A history lived through again, under other settings or on another device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memprof.record.blocks import BlockAction, BlockEvents, BlockState, Segment
from memprof.simulate.allocator import CachingAllocator
from memprof.simulate.driver import Driver, FirstFitDriver
from memprof.simulate.out_of_memory import SimulatedOutOfMemory
from memprof.simulate.settings import AllocatorSettings

_ALLOC = int(BlockAction.ALLOC)
_FREE_REQUESTED = int(BlockAction.FREE_REQUESTED)
_FREE_COMPLETED = int(BlockAction.FREE_COMPLETED)
_GIVEN_BACK = frozenset((int(BlockAction.SEGMENT_FREE), int(BlockAction.SEGMENT_UNMAP)))


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a program would have needed; sizes in bytes."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    device_allocs: int
    """Times the driver was asked for memory and gave it: calls of `cudaMalloc`, or mappings of pages."""
    alloc_retries: int
    """Times everything free was given back because memory had run out."""
    out_of_memory_event: int | None
    """Row of the allocation that found no memory, where the replay ended; None where all went well."""
    out_of_memory: str
    """What was missing there; empty where all went well."""

    @property
    def fragmentation(self) -> float:
        """Part of the highest reserved memory that was more than the highest allocated memory; 0 to 1."""
        if self.peak_reserved_bytes == 0:
            return 0.0
        return 1 - self.peak_allocated_bytes / self.peak_reserved_bytes


def replay(
    events: BlockEvents,
    settings: AllocatorSettings | None = None,
    total_bytes: int = 1 << 40,
    *,
    taken_bytes: int = 0,
    segments: Sequence[Segment] = (),
    torch_version: tuple[int, int] = (2, 14),
    empty_cache: bool = False,
    driver: Driver | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> ReplayReport:
    """Let a program allocate and free as it did, under other settings or on another device.

    The program is taken to ask for the same at the same moments, whatever the allocator does. Blocks that were held
    up by another stream are held up as long as they were. Private pools count as the default pool.

    Args:
        events: Of one device.
        settings: To try.
        total_bytes: Memory of the device to try.
        taken_bytes: Part of it that others hold.
        segments: What the device held when the events began; what lay in it is allocated first, in order of address.
        torch_version: Whose choices the allocator makes.
        empty_cache: Segments went back to the driver because the program called `torch.cuda.empty_cache`, which
            leaves no trace of its own, and not because memory was short: do the same at those moments.
        driver: Where segments come from; None is one of `total_bytes` that takes the lowest address.
        watch: Is told the row and the address of each allocation once it is made.

    Returns:
        Peaks and counts.
    """
    completed: set[int] = set()
    recorded: list[int] = []
    """Numbers of events as the allocator recorded them: one for each block held up."""

    def is_complete(stream: int, _event: int) -> bool:
        return stream >= 0 or -stream in completed

    allocator = CachingAllocator(
        settings=settings,
        driver=driver or FirstFitDriver(total_bytes, taken_bytes=taken_bytes),
        events=is_complete,
        torch_version=torch_version,
    )
    malloc, free = allocator.malloc, allocator.free
    now_at: dict[int, int] = {}
    """Recorded address -> address here."""
    held: dict[int, int] = {}
    """Recorded address of a block that another stream holds up -> the number that stands for that stream."""
    failed_at: int | None = None
    why = ""
    row = -1
    try:
        for segment in segments:
            for block in segment.blocks:
                if block.state != BlockState.INACTIVE:
                    now_at[block.address] = malloc(block.requested_bytes or block.nbytes, segment.stream)
                    if block.state == BlockState.ACTIVE_AWAITING_FREE:
                        _hold(allocator, held, recorded, block.address, now_at.pop(block.address))
        actions, addresses = events.action.tolist(), events.address.tolist()
        rows = zip(actions, addresses, events.nbytes.tolist(), events.stream.tolist(), strict=True)
        last = len(actions) - 1
        for row, (action, address, nbytes, stream) in enumerate(rows):
            if action == _ALLOC:
                here = now_at[address] = malloc(nbytes, stream)
                if watch is not None:
                    watch(row, here)
            elif action == _FREE_REQUESTED:
                freed = now_at.pop(address, None)
                if freed is None:
                    continue
                if row < last and actions[row + 1] == _FREE_COMPLETED and addresses[row + 1] == address:
                    free(freed)
                else:
                    _hold(allocator, held, recorded, address, freed)
            elif action == _FREE_COMPLETED and held:
                number = held.pop(address, None)
                if number is not None:
                    completed.add(number)
            elif empty_cache and action in _GIVEN_BACK and (row == last or actions[row + 1] not in _GIVEN_BACK):
                allocator.empty_cache()
    except SimulatedOutOfMemory as error:
        failed_at, why = max(row, 0), str(error)
    stats = allocator.memory_stats()
    return ReplayReport(
        peak_allocated_bytes=stats["allocated_bytes.all.peak"],
        peak_reserved_bytes=stats["reserved_bytes.all.peak"],
        device_allocs=stats["num_device_alloc"],
        alloc_retries=stats["num_alloc_retries"],
        out_of_memory_event=failed_at,
        out_of_memory=why,
    )


def _hold(allocator: CachingAllocator, held: dict[int, int], recorded: list[int], address: int, here: int) -> None:
    """Free a block that a stream of its own holds up: streams below 0 stand for such."""
    recorded.append(address)
    held[address] = len(recorded)
    allocator.record_stream(here, -len(recorded))
    allocator.free(here)

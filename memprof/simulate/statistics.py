"""Counters, under the names of `torch.cuda.memory_stats`."""

from __future__ import annotations

from collections.abc import Iterable

KINDS = (
    "allocation",
    "segment",
    "active",
    "inactive_split",
    "allocated_bytes",
    "reserved_bytes",
    "active_bytes",
    "inactive_split_bytes",
    "requested_bytes",
)


class Tally:
    """What one pool ever took, and what of it came back.

    What changes with every allocation is kept as sums that only grow: that is half the work.
    """

    __slots__ = (
        "allocated_bytes_ever",
        "allocated_bytes_freed",
        "allocation_ever",
        "allocation_freed",
        "awaiting",
        "awaiting_bytes",
        "inactive_split",
        "inactive_split_bytes",
        "inactive_split_bytes_ever",
        "inactive_split_ever",
        "requested_bytes_ever",
        "requested_bytes_freed",
        "reserved_bytes",
        "reserved_bytes_ever",
        "segment",
        "segment_ever",
    )

    allocated_bytes_ever: int
    allocated_bytes_freed: int
    allocation_ever: int
    allocation_freed: int
    awaiting: int
    awaiting_bytes: int
    inactive_split: int
    inactive_split_bytes: int
    inactive_split_bytes_ever: int
    inactive_split_ever: int
    requested_bytes_ever: int
    requested_bytes_freed: int
    reserved_bytes: int
    reserved_bytes_ever: int
    segment: int
    segment_ever: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    @property
    def allocation(self) -> int:
        """Allocated blocks."""
        return self.allocation_ever - self.allocation_freed

    @property
    def allocated_bytes(self) -> int:
        """Bytes of allocated blocks."""
        return self.allocated_bytes_ever - self.allocated_bytes_freed

    @property
    def active(self) -> int:
        """Blocks that are allocated, or wait for another stream."""
        return self.allocation + self.awaiting

    @property
    def active_ever(self) -> int:
        """Every block that was allocated was active."""
        return self.allocation_ever

    @property
    def active_bytes(self) -> int:
        """Bytes of active blocks."""
        return self.allocated_bytes + self.awaiting_bytes

    @property
    def active_bytes_ever(self) -> int:
        """Every block that was allocated was active."""
        return self.allocated_bytes_ever

    @property
    def requested_bytes(self) -> int:
        """Bytes that active blocks were requested with."""
        return self.requested_bytes_ever - self.requested_bytes_freed


class Peaks:
    """Highest values since the last reset, of one pool or of all."""

    __slots__ = KINDS

    allocation: int
    segment: int
    active: int
    inactive_split: int
    allocated_bytes: int
    reserved_bytes: int
    active_bytes: int
    inactive_split_bytes: int
    requested_bytes: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)


class Counter:
    """A counter with its peak."""

    __slots__ = ("current", "ever", "peak")

    def __init__(self) -> None:
        self.current = self.ever = self.peak = 0

    def up(self, amount: int = 1) -> None:
        """Count up."""
        self.current += amount
        self.ever += amount
        self.peak = max(self.peak, self.current)

    def down(self, amount: int = 1) -> None:
        """Count down."""
        self.current -= amount

    def entries(self, name: str) -> dict[str, int]:
        """As in `memory_stats`."""
        return {
            f"{name}.current": self.current,
            f"{name}.peak": self.peak,
            f"{name}.allocated": self.ever,
            f"{name}.freed": self.ever - self.current,
        }


class Statistics:
    """Counters of a device.

    Peaks of what grows with allocations are not kept up at each of them: `mark` is called before anything
    shrinks again, which is when a peak may have been reached.

    Args:
        small: Of the pool for small requests.
        large: Of the pool for large requests.
    """

    def __init__(self, small: Tally, large: Tally) -> None:
        self.small = small
        self.large = large
        self._peaks = (Peaks(), Peaks(), Peaks())
        self._awaited = False
        """A block ever waited for another stream, so that active blocks must be counted by themselves."""
        self.oversize_allocations = Counter()
        self.oversize_segments = Counter()
        self.num_alloc_retries = 0
        self.num_ooms = 0
        self.num_sync_all_streams = 0
        self.num_device_alloc = 0
        self.num_device_free = 0

    def mark(self) -> None:
        """Note what is held now as a peak, where it is one."""
        small, large = self.small, self.large
        of_all, of_small, of_large = self._peaks
        low = small.allocation_ever - small.allocation_freed
        high = large.allocation_ever - large.allocation_freed
        if low > of_small.allocation:
            of_small.allocation = low
        if high > of_large.allocation:
            of_large.allocation = high
        if low + high > of_all.allocation:
            of_all.allocation = low + high
        low = small.allocated_bytes_ever - small.allocated_bytes_freed
        high = large.allocated_bytes_ever - large.allocated_bytes_freed
        if low > of_small.allocated_bytes:
            of_small.allocated_bytes = low
        if high > of_large.allocated_bytes:
            of_large.allocated_bytes = high
        if low + high > of_all.allocated_bytes:
            of_all.allocated_bytes = low + high
        low = small.requested_bytes_ever - small.requested_bytes_freed
        high = large.requested_bytes_ever - large.requested_bytes_freed
        if low > of_small.requested_bytes:
            of_small.requested_bytes = low
        if high > of_large.requested_bytes:
            of_large.requested_bytes = high
        if low + high > of_all.requested_bytes:
            of_all.requested_bytes = low + high
        if self._awaited:
            for peaks, tallies in self._by_name().values():
                peaks.active = max(peaks.active, _total(tallies, "active"))
                peaks.active_bytes = max(peaks.active_bytes, _total(tallies, "active_bytes"))

    def awaits(self, tally: Tally, nbytes: int) -> None:
        """Count a block that was freed and waits for another stream."""
        if not self._awaited:
            self._awaited = True
            self._copy_active()
        tally.awaiting += 1
        tally.awaiting_bytes += nbytes

    def _copy_active(self) -> None:
        """As long as no block ever waited, what is active is what is allocated."""
        for peaks in self._peaks:
            peaks.active = peaks.allocation
            peaks.active_bytes = peaks.allocated_bytes

    def split_changes(self, tally: Tally, blocks: int, nbytes: int) -> None:
        """Count free blocks in divided segments.

        Args:
            tally: Of the pool.
            blocks: How many more.
            nbytes: How many bytes more.
        """
        peaks = self._peaks
        of_pool = peaks[1] if tally is self.small else peaks[2]
        tally.inactive_split += blocks
        tally.inactive_split_bytes += nbytes
        if blocks > 0:
            tally.inactive_split_ever += blocks
            if tally.inactive_split > of_pool.inactive_split:
                of_pool.inactive_split = tally.inactive_split
            total = self.small.inactive_split + self.large.inactive_split
            if total > peaks[0].inactive_split:
                peaks[0].inactive_split = total
        if nbytes > 0:
            tally.inactive_split_bytes_ever += nbytes
            if tally.inactive_split_bytes > of_pool.inactive_split_bytes:
                of_pool.inactive_split_bytes = tally.inactive_split_bytes
            total = self.small.inactive_split_bytes + self.large.inactive_split_bytes
            if total > peaks[0].inactive_split_bytes:
                peaks[0].inactive_split_bytes = total

    def reserved_grows(self, tally: Tally, nbytes: int, *, segments: int) -> None:
        """Count memory from the driver."""
        tally.reserved_bytes += nbytes
        tally.reserved_bytes_ever += nbytes
        tally.segment += segments
        tally.segment_ever += segments
        self.num_device_alloc += 1
        self._mark_reserved()

    def reserved_shrinks(self, tally: Tally, nbytes: int, *, segments: int) -> None:
        """Count memory given back to the driver."""
        tally.reserved_bytes -= nbytes
        tally.segment -= segments
        self.num_device_free += 1

    def _mark_reserved(self) -> None:
        small, large = self.small, self.large
        for peaks, nbytes, segments in (
            (self._peaks[0], small.reserved_bytes + large.reserved_bytes, small.segment + large.segment),
            (self._peaks[1], small.reserved_bytes, small.segment),
            (self._peaks[2], large.reserved_bytes, large.segment),
        ):
            peaks.reserved_bytes = max(peaks.reserved_bytes, nbytes)
            peaks.segment = max(peaks.segment, segments)

    def reset_peak(self) -> None:
        """Let peaks start from what is held now, as `torch.cuda.reset_peak_memory_stats` does."""
        for peaks, tallies in self._by_name().values():
            for kind in KINDS:
                setattr(peaks, kind, sum(getattr(tally, kind) for tally in tallies))
        for counter in (self.oversize_allocations, self.oversize_segments):
            counter.peak = counter.current

    def as_dict(self, max_split_size: int) -> dict[str, int]:
        """All counters, named as in `torch.cuda.memory_stats`."""
        self.mark()
        if not self._awaited:
            self._copy_active()
        found: dict[str, int] = {"max_split_size": max_split_size}
        for name in ("num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free"):
            found[name] = getattr(self, name)
        for pool, (peaks, tallies) in self._by_name().items():
            for kind in KINDS:
                current = _total(tallies, kind)
                ever = _total(tallies, f"{kind}_ever")
                found[f"{kind}.{pool}.current"] = current
                found[f"{kind}.{pool}.peak"] = getattr(peaks, kind)
                found[f"{kind}.{pool}.allocated"] = ever
                found[f"{kind}.{pool}.freed"] = ever - current
        found.update(self.oversize_allocations.entries("oversize_allocations"))
        found.update(self.oversize_segments.entries("oversize_segments"))
        return dict(sorted(found.items()))

    def _by_name(self) -> dict[str, tuple[Peaks, tuple[Tally, ...]]]:
        return {
            "all": (self._peaks[0], (self.small, self.large)),
            "small_pool": (self._peaks[1], (self.small,)),
            "large_pool": (self._peaks[2], (self.large,)),
        }


def _total(tallies: Iterable[Tally], name: str) -> int:
    return sum(getattr(tally, name) for tally in tallies)

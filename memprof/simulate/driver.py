"""Where segments come from: the driver below the allocator."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Protocol

DEVICE_BASE = 0x2000_0000_0000
RESERVED_BASE = 0x3000_0000_0000
GRANULARITY_BYTES = 2 << 20
"""Physical memory is handed out in pages of this size."""


class Driver(Protocol):
    """Hands out memory of one device, and address space for segments that grow."""

    @property
    def total_bytes(self) -> int:
        """Memory of the device, in bytes."""

    @property
    def free_bytes(self) -> int:
        """Memory that nobody holds, in bytes."""

    def malloc(self, nbytes: int) -> int | None:
        """`cudaMalloc`: the address, or None where memory does not suffice."""

    def free(self, address: int) -> None:
        """`cudaFree`."""

    def reserve(self, nbytes: int) -> int:
        """`cuMemAddressReserve`: the address of a range without memory."""

    def release(self, address: int) -> None:
        """`cuMemAddressFree`."""

    def create(self, nbytes: int) -> bool:
        """`cuMemCreate`: whether there was memory for a page of an expandable segment."""

    def destroy(self, nbytes: int) -> None:
        """`cuMemRelease`: give back a page."""


class _Ranges:
    """Ranges of addresses, found by first fit from a base."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._starts: list[int] = []
        self._size: dict[int, int] = {}

    def take(self, nbytes: int) -> int:
        at = self._base
        for start in self._starts:
            if start >= at + nbytes:
                break
            end = start + self._size[start]
            at = max(at, -(-end // GRANULARITY_BYTES) * GRANULARITY_BYTES)
        insort(self._starts, at)
        self._size[at] = nbytes
        return at

    def give_back(self, address: int) -> int:
        del self._starts[bisect_left(self._starts, address)]
        return self._size.pop(address)


def _pages(nbytes: int) -> int:
    return -(-nbytes // GRANULARITY_BYTES) * GRANULARITY_BYTES


class FirstFitDriver:
    """The lowest free address that fits, always: makes runs repeatable.

    Args:
        total_bytes: Memory of the device.
        taken_bytes: Part of it that others hold: the CUDA context, other processes.
        base: Lowest address of device memory.
    """

    def __init__(self, total_bytes: int, *, taken_bytes: int = 0, base: int = DEVICE_BASE) -> None:
        self._total = total_bytes
        self._used = taken_bytes
        self._memory = _Ranges(base)
        self._reserved = _Ranges(RESERVED_BASE)

    @property
    def total_bytes(self) -> int:
        """See `Driver`."""
        return self._total

    @property
    def free_bytes(self) -> int:
        """See `Driver`."""
        return max(self._total - self._used, 0)

    def malloc(self, nbytes: int) -> int | None:
        """See `Driver`."""
        if not self.create(_pages(nbytes)):
            return None
        return self._memory.take(nbytes)

    def free(self, address: int) -> None:
        """See `Driver`."""
        self._used -= _pages(self._memory.give_back(address))

    def reserve(self, nbytes: int) -> int:
        """See `Driver`."""
        return self._reserved.take(nbytes)

    def release(self, address: int) -> None:
        """See `Driver`."""
        self._reserved.give_back(address)

    def create(self, nbytes: int) -> bool:
        """See `Driver`."""
        if nbytes > self._total - self._used:
            return False
        self._used += nbytes
        return True

    def destroy(self, nbytes: int) -> None:
        """See `Driver`."""
        self._used -= nbytes

"""Counters of memory in use, cheap enough to read at every phase boundary.

Source:
    `mallinfo2(3)`, glibc 2.33 and later: `uordblks` (in use by the heap) and `hblkhd` (in use by
    mmap). PyTorch's CPU allocator calls `posix_memalign` (`c10/core/impl/alloc_cpu.cpp`, torch 2.13.0).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from memprof.record.schema import NONE

GLIBC = "glibc malloc"
RESIDENT = "resident set size"
ALLOCATOR = "caching allocator"

_PROBE_BYTES = 4 << 20


Reading = tuple[int, int, int, int]
"""What a counter says: allocated bytes, reserved bytes, peak of allocated bytes, and blocks allocated and freed since
the process started. `NONE` is unknown, as in the packed columns of a sample."""


class Counter(NamedTuple):
    """How the memory of one device is read."""

    device: str
    source: str
    """`caching allocator`, `glibc malloc` or `resident set size`."""
    read: Callable[[], Reading]
    stats: AllocatorStats | None = None
    """What a caching allocator said when it was last read."""


class AllocatorStats:
    """The counters of one device's caching allocator, as nested dictionaries: `stats["allocated_bytes"]["all"]`.

    `torch.cuda.memory_stats` flattens them at several times the cost.

    Args:
        torch: The package.
        index: CUDA ordinal.
    """

    def __init__(self, torch: Any, index: int) -> None:
        self.index = index
        self._ask: Callable[[int], dict[str, Any]] = torch._C._cuda_memoryStats
        self.latest: dict[str, Any] = {}
        """What was read last."""

    def read(self) -> Reading:
        """Ask the allocator."""
        stats = self.latest = self._ask(self.index)
        allocated, blocks = stats["allocated_bytes"]["all"], stats["allocation"]["all"]
        return (
            allocated["current"],
            stats["reserved_bytes"]["all"]["current"],
            allocated["peak"],
            blocks["allocated"] + blocks["freed"],
        )


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


def cpu_counter() -> Counter:
    """The finest counter of host memory that works here."""
    read = _glibc_reader()
    if read is not None:
        return Counter("cpu", GLIBC, read)
    import psutil

    process = psutil.Process()
    return Counter("cpu", RESIDENT, lambda: (process.memory_info().rss, NONE, NONE, NONE))


def _glibc_reader() -> Callable[[], Reading] | None:
    """glibc's own books, or None where another allocator (jemalloc, tcmalloc, musl, macOS) serves malloc."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    mallinfo2.restype = _Mallinfo2
    mallinfo2.argtypes = ()

    def read() -> Reading:
        info = mallinfo2()
        return info.uordblks + info.hblkhd, NONE, NONE, NONE

    before = read()[0]
    probe = bytearray(_PROBE_BYTES)
    seen = read()[0] - before
    del probe
    return read if seen >= _PROBE_BYTES else None


def cuda_counters(torch: Any, known: Collection[str] = ()) -> list[Counter]:
    """One counter for each CUDA device this process uses and that is not known; CUDA must be initialised."""
    found = []
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" not in known:
            stats = AllocatorStats(torch, index)
            if stats.read()[1] or index == torch.cuda.current_device():
                found.append(Counter(f"cuda:{index}", ALLOCATOR, stats.read, stats))
    return found

"""Pinned host memory of a simulated run: which storages are pinned, and what CUDA's host allocator holds for them."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch


class PinnedMemory:
    """The caching host allocator; pages are ordinary ones.

    Source:
        `CachingHostAllocatorImpl::allocate`, aten/src/ATen/core/CachingHostAllocator.h, torch 2.13.0: a block has the
        next power of two as its size and is used again for that size; nothing goes back to the system unasked.
    """

    def __init__(self) -> None:
        self._storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._free: Counter[int] = Counter()
        self._held_bytes = self._active_bytes = self._peak_active_bytes = 0

    def __contains__(self, storage: torch.UntypedStorage) -> bool:
        return storage in self._storages

    def pin(self, storage: torch.UntypedStorage) -> None:
        """Take a block for a storage; it is free again when the storage dies."""
        if storage in self._storages or not storage.nbytes():
            return
        block_bytes = 1 << (storage.nbytes() - 1).bit_length()
        if self._free[block_bytes]:
            self._free[block_bytes] -= 1
        else:
            self._held_bytes += block_bytes
        self._active_bytes += block_bytes
        self._peak_active_bytes = max(self._peak_active_bytes, self._active_bytes)
        self._storages.add(storage)
        weakref.finalize(storage, self._died, block_bytes).atexit = False

    def _died(self, block_bytes: int) -> None:
        self._free[block_bytes] += 1
        self._active_bytes -= block_bytes

    def statistics(self) -> dict[str, Any]:
        """What `torch._C._cuda_hostMemoryStats` gives."""

        def counter(value: int, peak: int) -> dict[str, int]:
            return {"current": value, "peak": peak, "allocated": peak, "freed": peak - value}

        none = {"total": 0, "max": 0, "min": 0, "count": 0, "avg": 0}
        return {
            "num_host_alloc": 0,
            "num_host_free": 0,
            "allocations": counter(0, 0),
            "active_requests": counter(0, 0),
            "allocated_bytes": counter(self._held_bytes, self._held_bytes),
            "active_bytes": counter(self._active_bytes, self._peak_active_bytes),
            "host_alloc_time": none,
            "host_free_time": none,
        }

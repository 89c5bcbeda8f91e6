"""Sizes: what a request is rounded to, and what the driver is asked for.

Source:
    c10/core/AllocatorConfig.h; `round_size`, `get_allocation_size`, `should_split` of
    c10/cuda/CUDACachingAllocator.cpp, torch 2.14.1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memprof.simulate.settings import INTERVALS, AllocatorSettings

MIN_BLOCK_BYTES = 512
"""`kMinBlockSize`"""
SMALL_BYTES = 1 << 20
"""`kSmallSize`: the largest block of the small pool."""
SMALL_BUFFER_BYTES = 2 << 20
"""`kSmallBuffer`: size of the segments of the small pool."""
MIN_LARGE_BYTES = 10 << 20
"""`kMinLargeAlloc`: blocks from here on get a segment of their own."""
ROUND_LARGE_BYTES = 2 << 20
"""`kRoundLarge`"""
IMPOSSIBLE_BYTES = 1 << 60
"""Requests from here on are out of memory at once."""

_FIRST_INTERVAL = 20


def round_size(requested_bytes: int, settings: AllocatorSettings) -> int:
    """Round a request up to the size of the block that it wants.

    Args:
        requested_bytes: Size asked for, in bytes.
        settings: Of the allocator.

    Returns:
        Bytes, a multiple of 512 unless `roundup_power2_divisions` makes it otherwise.
    """
    if requested_bytes < MIN_BLOCK_BYTES:
        return MIN_BLOCK_BYTES
    exponent = requested_bytes.bit_length() - 1
    interval = min(max(exponent - _FIRST_INTERVAL, 0), INTERVALS - 1)
    divisions = settings.roundup_power2_divisions[interval]
    if divisions > 1 and requested_bytes > MIN_BLOCK_BYTES * divisions:
        floor = 1 << exponent
        if requested_bytes == floor:
            return requested_bytes
        step = floor >> (divisions.bit_length() - 1)
        if step == 0:
            return floor << 1
        low = requested_bytes & ~(step - 1)
        return requested_bytes if low == requested_bytes else low + step
    return (requested_bytes + MIN_BLOCK_BYTES - 1) & -MIN_BLOCK_BYTES


def round_sizes(requested_bytes: npt.NDArray[np.int64], settings: AllocatorSettings) -> npt.NDArray[np.int64]:
    """`round_size` of many requests.

    Args:
        requested_bytes: Sizes asked for, in bytes; shape (requests,).
        settings: Of the allocator.

    Returns:
        Bytes; shape (requests,).
    """
    nbytes = np.maximum(requested_bytes, 1)
    rounded = (nbytes + (MIN_BLOCK_BYTES - 1)) & -MIN_BLOCK_BYTES
    if any(divisions > 1 for divisions in settings.roundup_power2_divisions):
        for interval, divisions in enumerate(settings.roundup_power2_divisions):
            if divisions <= 1:
                continue
            mask = nbytes > MIN_BLOCK_BYTES * divisions
            if interval > 0:
                mask &= nbytes >= 1 << (_FIRST_INTERVAL + interval)
            if interval < INTERVALS - 1:
                mask &= nbytes < 1 << (_FIRST_INTERVAL + interval + 1)
            for index in np.flatnonzero(mask).tolist():
                rounded[index] = round_size(int(nbytes[index]), settings)
    return rounded


def driver_size(nbytes: int, settings: AllocatorSettings) -> int:
    """Size of the segment that is asked for where no free block fits.

    Args:
        nbytes: Rounded size of the block, in bytes.
        settings: Of the allocator.

    Returns:
        Bytes asked of `cudaMalloc`.
    """
    if nbytes <= SMALL_BYTES:
        return SMALL_BUFFER_BYTES
    if nbytes < MIN_LARGE_BYTES:
        return settings.large_segment_bytes
    return -(-nbytes // ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES

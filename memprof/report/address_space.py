"""Addresses for storages that have none a viewer could use: a made-up range of memory, packed well."""

from __future__ import annotations

from functools import lru_cache

ALIGNMENT = 512
"""Block granularity, in bytes.

Source:
    `kMinBlockSize`, c10/core/AllocatorConfig.h, torch 2.13.0.
"""


def round_up(nbytes: int) -> int:
    """Smallest multiple of `ALIGNMENT` that holds so many bytes, in bytes."""
    return max(1, -(-nbytes // ALIGNMENT)) * ALIGNMENT


class AddressSpace:
    """Gives out ranges that never overlap, in constant time: a free range that fits well, else a new one.

    Args:
        base: First address.

    Source:
        Size classes as in M. Masmano et al., "TLSF: a new dynamic memory allocator for real-time
        systems", ECRTS 2004.
    """

    def __init__(self, base: int) -> None:
        self.base = base
        self.end = base
        """First address that was never given out."""
        self._start_to_size: dict[int, int] = {}
        self._end_to_start: dict[int, int] = {}
        self._classes: dict[int, dict[int, None]] = {}
        """Size class -> starts of the free ranges in it."""
        self._filled = 0
        """Bit `c` is set where class `c` has a free range."""

    def take(self, nbytes: int) -> int:
        """Take a range.

        Args:
            nbytes: Its size, a multiple of `ALIGNMENT`.

        Returns:
            Its first address.
        """
        # Every range in the first class to look at is large enough.
        smallest = _class_of(nbytes - ALIGNMENT) + 1 if nbytes > ALIGNMENT else 1
        candidates = self._filled >> smallest
        if candidates:
            code = smallest + (candidates & -candidates).bit_length() - 1
            start = next(reversed(self._classes[code]))
            size = self._remove(start)
            if size > nbytes:
                self._add(start + nbytes, size - nbytes)
            return start
        hole = self._end_to_start.get(self.end)  # grow the free range at the end, if there is one
        if hole is not None and self.end - hole < nbytes:
            self._remove(hole)
            start = hole
        else:
            start = self.end
        self.end = start + nbytes
        return start

    def give_back(self, start: int, nbytes: int) -> None:
        """Give a range back; free neighbours become one range."""
        if start + nbytes in self._start_to_size:
            nbytes += self._remove(start + nbytes)
        before = self._end_to_start.get(start)
        if before is not None:
            nbytes += self._remove(before)
            start = before
        self._add(start, nbytes)

    def holes(self) -> list[tuple[int, int]]:
        """Free ranges below `end` as (start, size), by address."""
        return sorted(self._start_to_size.items())

    def _add(self, start: int, size: int) -> None:
        code = _class_of(size)
        self._classes.setdefault(code, {})[start] = None
        self._filled |= 1 << code
        self._start_to_size[start] = size
        self._end_to_start[start + size] = start

    def _remove(self, start: int) -> int:
        size = self._start_to_size.pop(start)
        del self._end_to_start[start + size]
        code = _class_of(size)
        of_class = self._classes[code]
        del of_class[start]
        if not of_class:
            self._filled &= ~(1 << code)
        return size


@lru_cache(maxsize=1 << 16)
def _class_of(nbytes: int) -> int:
    """Ascends with the size: 16 classes from each power of two to the next, one a size below 16 KiB."""
    units = nbytes // ALIGNMENT
    shift = max(0, units.bit_length() - 5)
    return 16 * shift + (units >> shift)

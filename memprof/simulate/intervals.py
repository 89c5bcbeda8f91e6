"""A set of addresses, kept as intervals."""

from __future__ import annotations

from bisect import bisect_right


class Intervals:
    """Half-open intervals of addresses; those that touch become one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __contains__(self, address: int) -> bool:
        """Whether an address lies in an interval."""
        at = bisect_right(self._starts, address) - 1
        return at >= 0 and address < self._ends[at]

    def add(self, start: int, end: int) -> None:
        """Make all addresses from `start` to before `end` members."""
        first = bisect_right(self._starts, start)
        if first and self._ends[first - 1] >= start:
            first -= 1
            start = self._starts[first]
        last = bisect_right(self._starts, end)
        if last > first:
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Make no address from `start` to before `end` a member."""
        first = bisect_right(self._starts, start)
        if first and self._ends[first - 1] > start:
            first -= 1
        last = bisect_right(self._starts, end - 1)
        if last <= first:
            return
        pieces = []
        if self._starts[first] < start:
            pieces.append((self._starts[first], start))
        if self._ends[last - 1] > end:
            pieces.append((end, self._ends[last - 1]))
        self._starts[first:last] = [piece[0] for piece in pieces]
        self._ends[first:last] = [piece[1] for piece in pieces]

"""Which storages are alive at a moment, found without going through all of a run's."""

from __future__ import annotations

import numpy as np

from memprof.model.lifetimes import IntArray, Lifetimes

_LEAST_APART = 4096
"""Births between two moments of which is noted what was alive."""


class Living:
    """An index of lifetimes by time.

    At some births it is noted what was alive, so that only what was alive at the birth noted last, and what was born
    since, is looked at. Notes are as far apart as they are long: together they are no longer than the table.

    Args:
        lifetimes: Births and deaths.
    """

    def __init__(self, lifetimes: Lifetimes) -> None:
        self._rows = np.argsort(lifetimes.birth_ns, kind="stable")
        self._births = lifetimes.birth_ns[self._rows]
        never = np.iinfo(np.int64).max
        self._deaths = np.where(lifetimes.died[self._rows], lifetimes.death_ns[self._rows], never)
        alive = np.zeros(0, np.int64)
        places, self._noted = [0], [alive]
        while places[-1] < len(self._rows):
            first = places[-1]
            last = min(first + max(len(alive), _LEAST_APART), len(self._rows))
            alive = self._of(alive, first, last, int(self._births[last - 1]))
            places.append(last)
            self._noted.append(alive)
        self._places = np.array(places, np.int64)

    def at(self, time_ns: int) -> IntArray:
        """Rows of what is alive at a moment: born by then, and dead later if at all; ascending."""
        last = int(np.searchsorted(self._births, time_ns, side="right"))
        note = int(np.searchsorted(self._places, last, side="right")) - 1
        return np.sort(self._rows[self._of(self._noted[note], int(self._places[note]), last, time_ns)])

    def born(self, first_ns: int, last_ns: int) -> IntArray:
        """Rows of what is born from one moment to another, both among them; ascending."""
        first = int(np.searchsorted(self._births, first_ns, side="left"))
        last = int(np.searchsorted(self._births, last_ns, side="right"))
        return np.sort(self._rows[first:last])

    def _of(self, noted: IntArray, first: int, last: int, time_ns: int) -> IntArray:
        """Places of those among some noted and the births of a stretch that die after a moment."""
        found = np.concatenate((noted, np.arange(first, last)))
        return found[self._deaths[found] > time_ns]

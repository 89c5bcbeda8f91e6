"""Which op of a forward the backward is at: autograd numbers its nodes as the forward's ops run."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable

import torch

from memprof.record.schema import NONE

_MOST = 200_000


class ForwardPlaces:
    """Lines and modules of the forward's ops, by the sequence numbers of autograd.

    Args:
        note: Takes a sentence where this torch has no such numbers.

    Source:
        `torch._C._autograd._get_sequence_nr` and `torch._C._current_autograd_node`, torch 2.13.0: a node takes its
        number just before its op runs.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._numbers = array("q")
        """The number that the last op of each stretch saw: ops that follow each other in one place are a stretch."""
        self._places: list[tuple[int, int]] = []
        self._seen: dict[tuple[int, int], tuple[int, int]] = {}
        """Every place is one object, however often it is met."""
        self._next_number = getattr(torch._C._autograd, "_get_sequence_nr", None)
        self._current_node = getattr(torch._C, "_current_autograd_node", None)
        self.known = self._next_number is not None and self._current_node is not None
        """This torch numbers its nodes."""
        if not self.known:
            note("this torch has no autograd sequence numbers: memory made in backward has no forward line")

    def mark(self, location_id: int, module_id: int) -> None:
        """An op of the forward has run here."""
        if self._next_number is None:
            return
        place = (location_id, module_id)
        places = self._places
        if places and places[-1] == place:
            self._numbers[-1] = self._next_number()
            return
        self._numbers.append(self._next_number())
        places.append(self._seen.setdefault(place, place))

    def of_gradient(self, module_id: int) -> tuple[int, int]:
        """Line and module of the forward op whose gradient the engine is computing.

        Args:
            module_id: What to give where no op is known.
        """
        node = None if self._current_node is None else self._current_node()
        if node is None or not self._numbers:
            return NONE, module_id
        # The node took its number just before the op ran, so the op saw the next one.
        index = bisect_left(self._numbers, node._sequence_nr() + 1)
        return self._places[index] if index < len(self._places) else (NONE, module_id)

    def trim(self) -> None:
        """Forget the older half where there are too many."""
        if len(self._numbers) > _MOST:
            half = len(self._numbers) // 2
            del self._numbers[:half], self._places[:half]

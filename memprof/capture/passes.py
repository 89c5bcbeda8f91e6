"""What torch was asked to do, in order: forwards, backwards, optimizer steps, `zero_grad`s.

A pass is a few numbers. It holds neither tensors nor the user's objects, so it is written at every level and
in every iteration, watched or not.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter_ns

from memprof.record.events import Location, PassKind
from memprof.record.schema import NONE


class PassLog:
    """Numbers passes and packs them for the recording.

    Args:
        location_id: Gives a source line its id.
    """

    def __init__(self, location_id: Callable[[Location], int]) -> None:
        self._location_id = location_id
        self._rows: list[int] = []
        self._uses: list[int] = []
        self._next = 0
        self._backward = NONE
        """The backward that runs, or ran last."""

    def begin(self, kind: PassKind) -> tuple[int, int]:
        """Number a pass that begins now.

        Args:
            kind: What it is.

        Returns:
            Its number and when it began.
        """
        number, self._next = self._next, self._next + 1
        if kind is PassKind.BACKWARD:
            self._backward = number
        return number, perf_counter_ns()

    def end(
        self,
        kind: PassKind,
        begun: tuple[int, int],
        *,
        location: Location | None,
        subject: int = NONE,
        flags: int = 0,
        saved_bytes: int | None = None,
        gradients: int = NONE,
    ) -> None:
        """Write a pass down that ends now.

        Args:
            kind: What it is.
            begun: What `begin` gave.
            location: The user's line that asked for it.
            subject: Number of the root module or optimizer.
            flags: How it went: those of `PassFlag`.
            saved_bytes: What a forward left allocated apart from its output.
            gradients: Number of the profile of parameters after a backward.
        """
        number, start_ns = begun
        line = NONE if location is None else self._location_id(location)
        saved = NONE if saved_bytes is None else max(saved_bytes, 0)
        self._rows += (number, kind, start_ns, perf_counter_ns(), line, subject, flags, saved, gradients)

    def user_of(self, forward: int) -> Callable[[], None]:
        """A function to call when a backward uses the graph of a forward."""
        uses = self._uses

        def used() -> None:
            uses.extend((self._backward, forward))

        return used

    def take(self) -> tuple[array[int], array[int]]:
        """Passes that ended, and uses seen, since the last call."""
        rows, self._rows = self._rows, []
        uses = self._uses[:]
        del self._uses[: len(uses)]  # the engine's threads may be appending
        return array("q", rows), array("q", uses)

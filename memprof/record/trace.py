"""Traces of a snapshot: entries as columns, and the stacks they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from memprof.record.blocks import BlockAction, BlockEvents, IntArray
from memprof.record.events import Location
from memprof.record.schema import BLOCK_COLUMNS

ACTIONS = {action.name.lower(): int(action) for action in BlockAction}
OTHER = int(BlockAction.OTHER)
_LIMIT = 1 << 62
_FEW = 1 << 12


class StackTable:
    """Numbers call stacks in the order they are met; those that say the same have one number."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Location, ...], int] = {}
        self._lines: dict[tuple[str, int, str], Location] = {}
        # Frames and their lists are shared between entries, so their identity tells most of them apart at once.
        # They are kept, so that no other gets the identity of one that is gone.
        self._of_list: dict[int, tuple[Any, int]] = {}
        self._of_frame: dict[int, tuple[Any, Location]] = {}

    @property
    def stacks(self) -> tuple[tuple[Location, ...], ...]:
        """All stacks by their number, innermost line first."""
        return tuple(self._numbers)

    def number(self, frames: Any) -> int:
        """Number of a stack.

        Args:
            frames: As a snapshot has them: a list of dictionaries, or nothing.

        Returns:
            The number, -1 where there are no frames.

        Raises:
            TypeError: They are something else. AttributeError and ValueError may come of them too.
        """
        if not frames:
            return -1
        known = self._of_list.get(id(frames))
        if known is None:
            known = self._of_list[id(frames)] = (frames, self.number_of(frames))
        return known[1]

    def number_of(self, frames: Iterable[Any]) -> int:
        """The same, for frames whose list is not kept."""
        stack = tuple([self._line(frame) for frame in frames])
        return self._numbers.setdefault(stack, len(self._numbers))

    def _line(self, frame: Any) -> Location:
        known = self._of_frame.get(id(frame))
        if known is None:
            known = self._of_frame[id(frame)] = (frame, self._new_line(frame))
        return known[1]

    def _new_line(self, frame: Mapping[str, Any]) -> Location:
        file, line, name = frame.get("filename", ""), frame.get("line", 0), frame.get("name", "")
        if not isinstance(file, str) or not isinstance(name, str):
            raise TypeError("a frame's file and function must be text")
        return self._lines.setdefault((file, line, name), Location(file, integer(line), name))


class Trace:
    """Entries of one device, gathered in columns.

    Args:
        stacks: What numbers their stacks.
    """

    def __init__(self, stacks: StackTable) -> None:
        self._stacks = stacks
        self._table = np.zeros((_FEW, len(BLOCK_COLUMNS)), np.int64)
        self._filled = 0
        """Rows of the table in use."""
        self._rows: list[tuple[int, ...]] = []
        """Entries that are not in the table yet."""
        self._free: dict[int, int] = {}

    def __len__(self) -> int:
        """Entries so far."""
        return self._filled + len(self._rows)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry as a snapshot has it.

        Args:
            entry: The dictionary.

        Raises:
            KeyError: It lacks its action or size.
            TypeError: A value is not what it should be. AttributeError and ValueError may come of that too.
        """
        frames = entry.get("frames")
        if "device_free" in entry:
            self._free[len(self)] = integer(entry["device_free"])
        action = entry["action"]
        self._rows.append(
            (
                0,
                ACTIONS.get(action, OTHER) if isinstance(action, str) else OTHER,
                integer(entry["time_us"]) * 1000 if "time_us" in entry else -1,
                integer(entry["addr"]) if "addr" in entry else -1,
                integer(entry["size"]),
                integer(entry.get("stream", 0)),
                frames.number if isinstance(frames, KnownStack) else self._stacks.number(frames),
            )
        )
        if len(self._rows) == _FEW:
            self._flush()

    def extend(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add entries as a snapshot has them."""
        for entry in entries:
            self.append(entry)

    def add(self, **columns: IntArray) -> None:
        """Add entries that are columns already.

        Args:
            columns: All of `BLOCK_COLUMNS` but the device, with the values of `BlockEvents`, of equal length.
        """
        self._flush()
        first, self._filled = self._filled, self._filled + len(columns["action"])
        if self._filled > len(self._table):
            # In place: a large block of memory moves without being copied, so there are never two tables.
            self._table.resize((self._filled + (self._filled >> 2), len(BLOCK_COLUMNS)), refcheck=False)
        for place, name in enumerate(BLOCK_COLUMNS):
            self._table[first : self._filled, place] = columns.get(name, 0)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            table = np.array(rows, np.int64)
            self.add(**{name: table[:, place] for place, name in enumerate(BLOCK_COLUMNS)})

    def take_events(self) -> BlockEvents:
        """Give the entries away."""
        self._flush()
        table, self._table = self._table, np.zeros((0, len(BLOCK_COLUMNS)), np.int64)
        table.resize((self._filled, len(BLOCK_COLUMNS)), refcheck=False)
        self._filled = 0
        return BlockEvents(**_views(table), device_free=self._free, table=table)


def _views(table: IntArray) -> dict[str, IntArray]:
    return {name: table[:, place] for place, name in enumerate(BLOCK_COLUMNS) if name != "device"}


class KnownStack:
    """Stands in a loaded snapshot for a list of frames that was numbered when it was met.

    Args:
        number: Of the stack, -1 for an empty list.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def integer(value: Any, low: int = 0) -> int:
    """A whole number of a snapshot.

    Args:
        value: What the snapshot has in its place.
        low: Least it may be.

    Returns:
        The value.

    Raises:
        TypeError: It is none.
        ValueError: It is too small, or larger than any size or address.
    """
    if type(value) is int and low <= value < _LIMIT:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number was expected, not {type(value).__name__}")
    raise ValueError(f"a number is out of range: {value.bit_length()} bits")

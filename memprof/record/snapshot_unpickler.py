"""Unpickles a snapshot whose traces become columns while they are read.

As dictionaries the entries of a long trace would take several times the memory of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from memprof.record.blocks import IntArray
from memprof.record.plain_pickle import PlainUnpickler
from memprof.record.trace import ACTIONS, OTHER, KnownStack, StackTable, Trace
from memprof.record.trace_entries import NUMBERS, EntryTable, find_entries, key_columns

_TRACES = ("device_traces", "host_traces")
_FIRST_STRETCH = 1 << 16
"""Bytes looked through at first: the keys of entries are met in the first of them."""
_STRETCH = 1 << 21
_UNREAD = object()
"""Stands in the memo for values that were passed over: the dictionaries of entries, and text that is not used."""


class UnreadError(Exception):
    """A value is asked for that was passed over."""


class SnapshotUnpickler(PlainUnpickler):
    """Unpickles a snapshot; each trace becomes a `Trace`, except one of a single entry.

    Args:
        file: The pickle, at its beginning.
        stacks: What numbers stacks of the traces.
        quick: Look through many entries at once. Raises `UnreadError` in the rare file that refers back to what was
            passed over; such a file is read with `quick` off.
    """

    def __init__(self, file: BinaryIO, stacks: StackTable, *, quick: bool = True) -> None:
        super().__init__(file)
        self._stacks = stacks
        self._quick = quick
        self._trace: Trace | None = None
        """The trace whose list is being filled, or was last."""
        self._depth = 0
        """Open marks where its entries are."""
        self._table: EntryTable | None = None
        self._breaks: IntArray = np.zeros(0, np.int64)
        """Rows of the table that no row follows directly."""
        self._table_data = b""
        self._stretch = _FIRST_STRETCH
        self._texts: dict[int, str] = {}
        self._looked = 0
        """Places of the memo whose text is in `_texts`."""
        self._number_of: dict[bytes, int] = {}
        """Stacks by the bytes of their list: references to the memo."""
        self._known: dict[int, KnownStack] = {}

    # ---- opcodes -----------------------------------------------------------------------

    def _mark(self) -> None:
        target = self._stack[-1] if self._stack else None
        if type(target) is list and not target and self._is_trace():
            if self._memo and self._memo[-1] is target:
                self._memo[-1] = Trace(self._stacks)
                target = self._memo[-1]
            else:
                target = Trace(self._stacks)
            self._stack[-1] = target
        super()._mark()
        if type(target) is Trace:
            self._trace, self._depth = target, len(self._marked)

    def _is_trace(self) -> bool:
        """Whether the list on the stack is one of entries: of a trace of the outermost dictionary."""
        if self._data[self._at : self._at + 1] != b"}" or not 1 <= len(self._marked) <= 2:
            return False
        items = self._stack if len(self._marked) == 1 else self._marked[1]
        place = (len(items) - 2) // 2 * 2  # keys and values, and maybe a list in the last of them
        return place >= 0 and items[place] in _TRACES

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is Trace:
            target.extend(items)
        else:
            super()._extend(items)

    def _recall(self, number: int) -> Any:
        found = super()._recall(number)
        if found is _UNREAD:
            raise UnreadError
        return found

    def _empty_dict(self) -> None:
        if self._trace is None or len(self._marked) != self._depth or not self._quick or not self._take_entries():
            super()._empty_dict()

    # ---- many entries at once -------------------------------------------------------------

    def _take_entries(self) -> bool:
        """Take the entries that begin here into the trace; False where the next one must be unpickled."""
        if self._put:
            return False  # the memo is numbered in another way
        if self._table is None or self._table_data is not self._data:
            self._look_ahead()
        table, at = self._table, self._at - 1
        assert table is not None
        row = int(np.searchsorted(table.start, at))
        if row == len(table.start) or table.start[row] != at or table.end[row] < 0:
            return False
        last = int(self._breaks[np.searchsorted(self._breaks, row)])
        self._take_rows(table, slice(row, last + 1))
        self._at = int(table.end[last])
        return True

    def _look_ahead(self) -> None:
        self._window(self._at - 1, self._stretch)
        self._at = 1
        self._stretch = _STRETCH
        self._note_texts()
        self._table = find_entries(self._data, key_columns(self._texts))
        self._table_data = self._data
        self._breaks = np.flatnonzero(~self._table.follows)

    def _note_texts(self) -> None:
        for place in range(self._looked, len(self._memo)):
            if type(self._memo[place]) is str:
                self._texts[place] = self._memo[place]
        self._looked = len(self._memo)

    def _take_rows(self, table: EntryTable, rows: slice) -> None:
        trace = self._trace
        assert trace is not None
        if self._stack:  # entries that were unpickled
            trace.extend(self._stack)
            self._stack.clear()
        self._note_texts()
        base = len(self._memo)
        ends = np.cumsum(table.memoized[rows])
        self._memo += [_UNREAD] * int(ends[-1])
        self._looked = len(self._memo)
        stack = self._numbers_of_stacks(table, rows, base + ends - table.memoized[rows])
        numbers = dict(zip(NUMBERS, table.numbers[rows].T, strict=True))
        time_us = numbers["time_us"]
        trace.add(
            action=self._actions(table.action[rows]),
            time_ns=np.where(time_us >= 0, time_us * 1000, -1),
            address=numbers["addr"],
            nbytes=numbers["size"],
            stream=np.maximum(numbers["stream"], 0),
            stack=stack,
        )

    def _actions(self, places: IntArray) -> IntArray:
        met, which = np.unique(places, return_inverse=True)
        codes = []
        for place in met.tolist():
            text = self._recall(place)
            codes.append(ACTIONS.get(text, OTHER) if isinstance(text, str) else OTHER)
        return np.array(codes, np.int64)[which.reshape(-1)]

    def _numbers_of_stacks(self, table: EntryTable, rows: slice, first_place: IntArray) -> IntArray:
        """Number of each row's stack; lists of frames that the rows made go into the memo."""
        data, memo, number_of, known = self._data, self._memo, self._number_of, self._known
        found: list[int] = [-1] * len(first_place)
        own = np.flatnonzero(table.frames_memo[rows] >= 0)
        columns = (
            own.tolist(),
            table.frames_start[rows][own].tolist(),
            table.frames_end[rows][own].tolist(),
            (first_place + table.frames_memo[rows])[own].tolist(),
        )
        for row, start, end, place in zip(*columns, strict=True):
            number = -1
            if start >= 0:
                listed = data[start:end]
                number = number_of.get(listed, -1)
                if number < 0:
                    number = number_of[listed] = self._stacks.number_of(self._listed(listed))
            found[row] = number
            stack = known.get(number)
            if stack is None:
                stack = known[number] = KnownStack(number)
            memo[place] = stack
        again = np.flatnonzero(table.frames_get[rows] >= 0)
        for row, place in zip(again.tolist(), table.frames_get[rows][again].tolist(), strict=True):
            frames = self._recall(place)
            found[row] = frames.number if type(frames) is KnownStack else self._stacks.number(frames)
        return np.array(found, np.int64)

    def _listed(self, references: Sequence[int]) -> list[Any]:
        """Frames behind references to the memo, as bytes of a pickle."""
        frames = []
        at = 0
        while at < len(references):
            if references[at] == ord("h"):
                frames.append(self._recall(references[at + 1]))
                at += 2
            else:
                frames.append(self._recall(int.from_bytes(references[at + 1 : at + 5], "little")))
                at += 5
        return frames

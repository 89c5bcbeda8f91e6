"""Finds the trace entries in a stretch of a snapshot pickle, all at once.

A snapshot of a long run holds millions of entries, nearly all alike: a dictionary whose keys are references to text met
before, and whose values are numbers, references, short text, and a list of references to frames. numpy walks through
all of them side by side, one key and value a step. Whatever looks different is left to the unpickler.

Source:
    `save_dict`, `save_list`, `save_long` and `memoize` of `Lib/pickle.py`, protocols 4 and 5, CPython 3.14.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]

NUMBERS = ("size", "addr", "stream", "time_us")
"""Keys whose values are read as numbers."""
_KEYS = (*NUMBERS, "action", "frames")
_ACTION, _FRAMES = _KEYS.index("action"), _KEYS.index("frames")
_IGNORED = len(_KEYS)
_UNKNOWN = -1
_MOST_KEYS = 16
_PADDING = 1 << 10
"""Zero bytes after the data, which are no opcode: further than one step can reach."""
_LARGEST = 1 << 53
"""Numbers beyond are left to the unpickler, which says what is wrong with them."""

_DICT, _LIST, _MARK, _MEMOIZE = ord("}"), ord("]"), ord("("), 0x94
_SETITEMS, _APPENDS, _APPEND = ord("u"), ord("e"), ord("a")
_GET, _LONG_GET = ord("h"), ord("j")
_INT1, _INT2, _INT4, _LONG1, _TEXT = ord("K"), ord("M"), ord("J"), 0x8A, 0x8C

_GET_LENGTH = np.zeros(256, np.int64)
_GET_LENGTH[[_GET, _LONG_GET]] = 2, 5

_VALUE_LENGTH = np.zeros(256, np.int64)
"""Bytes of a value by its opcode, 0 where it is left to the unpickler; those of `_LONG1` and `_TEXT` come on top."""
for _code, _length in (
    *((_INT1, 2), (_INT2, 3), (_INT4, 5), (_LONG1, 2), (_GET, 2), (_LONG_GET, 5)),
    *((_TEXT, 3), (_LIST, 2), (ord("N"), 1), (0x88, 1), (0x89, 1), (ord("G"), 9)),
):
    _VALUE_LENGTH[_code] = _length

_NUMBER_BYTES = np.zeros(256, np.int64)
_NUMBER_BYTES[[_INT1, _INT2, _INT4]] = 1, 2, 4
_MASKS = np.array([(1 << 8 * nbytes) - 1 for nbytes in range(8)] + [(1 << 64) - 1], np.uint64)


@dataclass(frozen=True, slots=True, eq=False)
class EntryTable:
    """What looks like trace entries in a stretch of bytes, one row each in the order they begin.

    Whether a row really is an entry, and not bytes of something else, shows when the one before ends where it begins.
    """

    start: IntArray
    """Offset of the first byte."""
    end: IntArray
    """Offset of the byte after the last; -1 where the row is left to the unpickler."""
    follows: BoolArray
    """The next row begins where this one ends, or after the seam of two batches of a list."""
    memoized: IntArray
    """Values the entry puts into the memo."""
    numbers: IntArray
    """Shape (rows, `NUMBERS`); -1 where the entry lacks the key."""
    action: IntArray
    """Place in the memo of what it says."""
    frames_start: IntArray
    """Offset of the first frame of its list; -1 where the entry has no list of its own."""
    frames_end: IntArray
    frames_memo: IntArray
    """Its list is the so manieth value it puts into the memo."""
    frames_get: IntArray
    """Place in the memo of a list that an earlier entry made; -1 otherwise."""


def key_columns(memo: Mapping[int, str]) -> NDArray[np.int8]:
    """Say which place of the memo stands for which key of an entry.

    Args:
        memo: Place -> text, of all texts that may be keys.

    Returns:
        Column by place, with one place more for all that are beyond.
    """
    columns = np.full(max(memo, default=-1) + 2, _UNKNOWN, np.int8)
    for place, text in memo.items():
        columns[place] = _KEYS.index(text) if text in _KEYS else _UNKNOWN if text in _LEFT else _IGNORED
    return columns


_LEFT = ("device_free",)
"""Keys that few entries have; those are left to the unpickler."""


def find_entries(data: bytes, columns: NDArray[np.int8]) -> EntryTable:
    """Look for entries.

    Args:
        data: Bytes of a pickle of protocol 4 or 5.
        columns: Of `key_columns`.

    Returns:
        A row for each place where an entry may begin.
    """
    return _Walk(data, columns).table()


class _Walk:
    """All rows, each at its own place, taking the same step at the same time."""

    def __init__(self, data: bytes, columns: NDArray[np.int8]) -> None:
        padded = data + bytes(_PADDING)
        self._bytes: ByteArray = np.frombuffer(padded, np.uint8)
        # A number at every offset, aligned or not.
        self._words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
        self._places = np.ndarray((len(padded) - 3,), "<u4", padded, strides=(1,))
        self._columns = columns
        codes = self._bytes[: len(data)]
        begins = codes[:-2] == _DICT
        begins &= (codes[1:-1] == _MARK) | ((codes[1:-1] == _MEMOIZE) & (codes[2:] == _MARK))
        self._start = np.flatnonzero(begins)
        count = len(self._start)
        self._end = np.full(count, -1, np.int64)
        # Most pickles put the dictionary itself into the memo.
        self._memoized = (codes[self._start + 1] == _MEMOIZE).astype(np.int64)
        self._numbers = np.full((len(NUMBERS), count), -1, np.int64)
        self._action = np.full(count, -1, np.int64)
        self._frames = np.full((4, count), -1, np.int64)

    def table(self) -> EntryTable:
        rows, at = np.arange(len(self._start)), self._start + 2 + self._memoized
        for _ in range(_MOST_KEYS):
            rows, at = self._end_some(rows, at)
            rows, at, key = self._key(rows, at)
            rows, at = self._value(rows, at, key)
            if not len(rows):
                break
        self._end_some(rows, at)
        size, action = self._numbers[NUMBERS.index("size")], self._action
        self._end[(size < 0) | (action < 0)] = -1
        return EntryTable(
            start=self._start,
            end=self._end,
            follows=self._follows(),
            memoized=self._memoized,
            numbers=self._numbers.T,
            action=action,
            frames_start=self._frames[0],
            frames_end=self._frames[1],
            frames_memo=self._frames[2],
            frames_get=self._frames[3],
        )

    def _follows(self) -> BoolArray:
        end, following = self._end[:-1], self._start[1:]
        seam = (self._bytes[end] == _APPENDS) & (self._bytes[end + 1] == _MARK)
        joined = (end == following) | (seam & (end + 2 == following))
        return np.append((end >= 0) & joined & (self._end[1:] >= 0), False)

    def _end_some(self, rows: IntArray, at: IntArray) -> tuple[IntArray, IntArray]:
        """Note the ends of the rows that are at theirs."""
        ended = self._bytes[at] == _SETITEMS
        if not ended.any():
            return rows, at
        self._end[rows[ended]] = at[ended] + 1
        return rows[~ended], at[~ended]

    def _key(self, rows: IntArray, at: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Step over a reference to a key."""
        code = self._bytes[at]
        place = np.where(code == _LONG_GET, self._places[at + 1], self._bytes[at + 1])
        column = self._columns[np.minimum(place, len(self._columns) - 1)].astype(np.int64)
        length = _GET_LENGTH[code]
        good = (length > 0) & (column != _UNKNOWN)
        if good.all():
            return rows, at + length, column
        return rows[good], (at + length)[good], column[good]

    def _value(self, rows: IntArray, at: IntArray, column: IntArray) -> tuple[IntArray, IntArray]:
        """Take in a value and step over it."""
        code = self._bytes[at]
        sized = (code == _LONG1) | (code == _TEXT)
        length = _VALUE_LENGTH[code] + np.where(sized, self._bytes[at + 1], 0)
        after = at + length
        good = length > 0
        text = np.flatnonzero(code == _TEXT)
        good[text] &= self._bytes[after[text] - 1] == _MEMOIZE
        self._memoized[rows[text]] += 1
        for number in range(len(NUMBERS)):
            chosen = np.flatnonzero(column == number)
            if len(chosen):
                good[chosen] &= self._number(number, rows[chosen], at[chosen], code[chosen])
        chosen = np.flatnonzero(column == _ACTION)
        good[chosen] &= self._reference(self._action, rows[chosen], at[chosen], code[chosen])
        lists = code == _LIST
        good &= ~lists | (column == _FRAMES)
        chosen = np.flatnonzero(column == _FRAMES)
        if len(chosen):
            own = chosen[lists[chosen]]
            after[own], walked = self._list(rows[own], at[own])
            good[own] &= walked
            other = chosen[~lists[chosen]]
            good[other] &= self._reference(self._frames[3], rows[other], at[other], code[other])
        if good.all():
            return rows, after
        return rows[good], after[good]

    def _number(self, number: int, rows: IntArray, at: IntArray, code: ByteArray) -> BoolArray:
        """Read numbers; tells which are what they should be."""
        long = code == _LONG1
        nbytes = np.where(long, self._bytes[at + 1], _NUMBER_BYTES[code])
        value = self._words[at + 1 + long] & _MASKS[np.minimum(nbytes, 8)]
        # The sign is in the highest bit of the numbers that have one.
        signed = long | (code == _INT4)
        negative = signed & ((value >> (8 * np.clip(nbytes, 1, 8) - 1).astype(np.uint64)) & np.uint64(1) != 0)
        good: BoolArray = (long | (nbytes > 0)) & (nbytes <= 8) & ~negative & (value < _LARGEST)
        self._numbers[number][rows] = np.where(good, value, 0).astype(np.int64)
        return good

    def _reference(self, into: IntArray, rows: IntArray, at: IntArray, code: ByteArray) -> BoolArray:
        """Read places in the memo; tells which are any."""
        into[rows] = np.where(code == _LONG_GET, self._places[at + 1], self._bytes[at + 1])
        good: BoolArray = _GET_LENGTH[code] > 0
        return good

    def _list(self, rows: IntArray, at: IntArray) -> tuple[IntArray, BoolArray]:
        """Step over lists of references; tells where they end and which are such."""
        good = self._bytes[at + 1] == _MEMOIZE
        first = at + 2
        self._frames[2][rows] = self._memoized[rows]
        self._memoized[rows] += 1
        code = self._bytes[first]
        after = first.copy()  # an empty list ends here
        length = _GET_LENGTH[code]
        single = (length > 0) & (self._bytes[first + length] == _APPEND)
        after[single] = (first + length)[single] + 1
        many = np.flatnonzero(code == _MARK)
        last = self._over_references(first[many] + 1)
        good[many] &= self._bytes[last] == _APPENDS
        after[many] = last + 1
        self._frames[0][rows[single]] = first[single]
        self._frames[1][rows[single]] = after[single] - 1
        self._frames[0][rows[many]] = first[many] + 1
        self._frames[1][rows[many]] = last
        return after, good

    def _over_references(self, at: IntArray) -> IntArray:
        """Where rows of references end that begin at these offsets."""
        found: IntArray = at.copy()
        rows = np.arange(len(at))
        while len(rows):
            length = _GET_LENGTH[self._bytes[at]]
            at = at + length
            on = length > 0
            if not on.all():
                found[rows[~on]] = at[~on]
                rows, at = rows[on], at[on]
        return found

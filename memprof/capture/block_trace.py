"""Trace entries of the allocator's history as packed rows, and the ticks they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memprof.capture.frames import UserCode
from memprof.record.blocks import BlockAction, IntArray
from memprof.record.events import Location
from memprof.record.schema import BLOCK_COLUMNS, NONE
from memprof.record.writer import RecordingWriter

COLUMN = {name: place for place, name in enumerate(BLOCK_COLUMNS)}
FRAMELESS = -2
"""In the column `stack`: an allocation by a thread that runs no Python, as those of the autograd engine."""

_ALLOC, _FREE_REQUESTED = int(BlockAction.ALLOC), int(BlockAction.FREE_REQUESTED)


class _Actions(dict[str, int]):
    def __missing__(self, name: str) -> int:
        return int(BlockAction.OTHER)


_ACTIONS = _Actions({action.name.lower(): int(action) for action in BlockAction})
_action_of = itemgetter("action")
_numbers_of = itemgetter("time_us", "addr", "size", "stream")
_MOST_CODES = 1 << 62
_MOST_ALIKE = 8
"""Stacks of one depth that share the frames at three places; of more, all frames are looked at."""


class TickEnd(NamedTuple):
    """Where a tick ended."""

    tick: int
    time_ns: int
    operations: Mapping[int, int]
    """CUDA ordinal -> blocks its allocator had allocated and freed by then, added up."""


class StackFacts(NamedTuple):
    """What a stack says of itself."""

    frames: tuple[int, ...]
    """Ids of its lines, innermost first."""
    user_line: int
    """Id of the user's innermost line among them, or `NONE`."""
    in_module: bool
    """A module was being called."""


class TracePacker:
    """Packs trace entries and their stacks.

    Args:
        writer: Takes stacks.
        code: Tells the user's lines from libraries.
    """

    def __init__(self, writer: RecordingWriter, code: UserCode) -> None:
        self._writer = writer
        self._code = code
        self._lines: dict[tuple[str, int, str], tuple[int, bool, bool]] = {}
        self._shared: dict[int, tuple[int, bool, bool]] = {}
        """`id` of a frame of the snapshot at hand -> its line; the stacks of one snapshot share their frames."""
        self._facts: dict[int, StackFacts] = {}

    def begin_snapshot(self) -> None:
        """Forget the objects of the last snapshot, whose ids may come again."""
        self._shared.clear()

    def pack(self, index: int, trace: Sequence[Mapping[str, Any]], offset_ns: int) -> IntArray:
        """The events of one device.

        Args:
            index: CUDA ordinal.
            trace: Its entries.
            offset_ns: What to add to unix time.

        Returns:
            Rows of `BLOCK_COLUMNS`, with `FRAMELESS` among the stacks.
        """
        rows = np.full((len(trace), len(BLOCK_COLUMNS)), NONE, np.int64)
        if not len(trace):
            return rows
        try:
            table = _integers(chain.from_iterable(map(_numbers_of, trace)), 4 * len(rows))
        except KeyError:  # an entry without an address (out of memory), or a torch that tells no time
            table = _integers(chain.from_iterable(map(_numbers_of_sparse, trace)), 4 * len(rows))
        time_us, address, size, stream = table.reshape(-1, 4).T
        rows[:, COLUMN["device"]] = self._writer.name_id(f"cuda:{index}")
        rows[:, COLUMN["action"]] = _integers(map(_ACTIONS.__getitem__, map(_action_of, trace)), len(rows))
        rows[:, COLUMN["time_ns"]] = time_us * 1000 + offset_ns
        rows[:, COLUMN["address"]] = address
        rows[:, COLUMN["nbytes"]] = size
        rows[:, COLUMN["stream"]] = stream
        rows[:, COLUMN["stack"]] = _integers(self._stacks(trace), len(rows))
        return rows

    def _stacks(self, trace: Sequence[Mapping[str, Any]]) -> list[int]:
        known: dict[tuple[int, ...], list[tuple[list[Any], int]]] = {}
        stacks: list[int] = []
        add, get = stacks.append, known.get
        for entry in trace:
            frames = entry.get("frames")
            if not frames:
                add(NONE if frames is None else FRAMELESS)  # None: a free, or an event of torch's own
                continue
            # Frames are shared, so that comparing two lists of them takes less than hashing one.
            depth = len(frames)
            key: tuple[int, ...] = (depth, id(frames[0]), id(frames[depth >> 2]), id(frames[depth >> 1]))
            alike = get(key)
            if alike is not None and len(alike) >= _MOST_ALIKE:
                key = tuple(map(id, frames))
                alike = get(key)
            if alike is None:
                alike = known[key] = []
            for other, candidate in alike:
                if other == frames:
                    stack = candidate
                    break
            else:
                stack = self.stack(frames)
                alike.append((frames, stack))
            add(stack)
        return stacks

    def stack(self, frames: Sequence[Mapping[str, Any]]) -> int:
        """Id of a stack of the snapshot at hand."""
        ids = []
        user, in_module = NONE, False
        for frame in frames:
            line = self._shared.get(id(frame))
            if line is None:
                line = self._shared[id(frame)] = self._line(frame)
            ids.append(line[0])
            if user == NONE and line[1]:
                user = line[0]
            in_module = in_module or line[2]
        found = self._writer.stack_id(tuple(ids), user)
        if found not in self._facts:
            self._facts[found] = StackFacts(tuple(ids), user, in_module)
        return found

    def stack_of_line(self, line: Location | None) -> int:
        """Id of a stack of one line of the user, or `NONE`."""
        if line is None:
            return NONE
        location = self._writer.location_id(line)
        found = self._writer.stack_id((location,), location)
        self._facts[found] = StackFacts((location,), location, in_module=False)
        return found

    def called_by(self, stack: int, backward: int) -> tuple[int, bool]:
        """Find out whether the autograd engine made an allocation.

        Args:
            stack: A stack with frames, or `FRAMELESS`.
            backward: What `stack_of_line` gave for the line that ran a backward then, or `NONE`.

        Returns:
            Where no code of the user or of a module is in it: a stack that says the line that called backward, and
            True. Else the stack, and False.
        """
        if backward == NONE:
            return (NONE if stack == FRAMELESS else stack), False
        if stack == FRAMELESS:
            return backward, True
        facts = self._facts[stack]
        if facts.user_line != NONE or facts.in_module:
            return stack, False
        line = self._facts[backward].user_line
        found = self._writer.stack_id(facts.frames, line)
        self._facts[found] = StackFacts(facts.frames, line, in_module=False)
        return found, True

    def facts(self, stack: int) -> StackFacts:
        """What is known of a stack."""
        return self._facts[stack]

    def refined(self, stack: int, module: int, forward_line: int) -> int:
        """Id of a stack that also says for which module, and for which line of the forward, the allocation was."""
        facts = self._facts[stack]
        return self._writer.stack_id(facts.frames, facts.user_line, module=module, forward_location=forward_line)

    def _line(self, frame: Mapping[str, Any]) -> tuple[int, bool, bool]:
        key = (frame["filename"], frame["line"], frame["name"])
        found = self._lines.get(key)
        if found is None:
            calls_module = key[2] == "_call_impl" and key[0].endswith("module.py")
            location = self._writer.location_id(Location(*key))
            found = self._lines[key] = (location, self._code.owns_file(key[0]), calls_module)
        return found


def _numbers_of_sparse(entry: Mapping[str, Any]) -> tuple[int, int, int, int]:
    return entry.get("time_us", 0), entry.get("addr", NONE), entry["size"], entry["stream"]


def _integers(values: Iterable[int], count: int) -> IntArray:
    return np.fromiter(values, np.int64, count)


def kinds(*columns: IntArray) -> tuple[IntArray, IntArray]:
    """Find the different rows of a table, as `np.unique(..., axis=0)` does, at a fraction of its cost.

    Args:
        columns: The columns of the table, of one length.

    Returns:
        The different rows, and for each row of the table its place among them.
    """
    rows = np.stack(columns, axis=1)
    if not len(rows):
        return rows, np.zeros(0, np.int64)
    low = rows.min(axis=0)
    spans = [high - least + 1 for high, least in zip(rows.max(axis=0).tolist(), low.tolist(), strict=True)]
    if math.prod(spans) > _MOST_CODES:
        found, kind = np.unique(rows, axis=0, return_inverse=True)
        return found, kind.reshape(-1)
    code = np.zeros(len(rows), np.int64)
    for column, span in enumerate(spans):
        code = code * span + (rows[:, column] - low[column])
    _, first, kind = np.unique(code, return_index=True, return_inverse=True)
    return rows[first], kind.reshape(-1)


def counted(rows: IntArray) -> npt.NDArray[np.bool_]:
    """Which events the allocator counts as operations: blocks allocated, blocks freed."""
    action = rows[:, COLUMN["action"]]
    found: npt.NDArray[np.bool_] = (action == _ALLOC) | (action == _FREE_REQUESTED)
    return found


def places_in_ticks(rows: IntArray, index: int, before: int, ends: Sequence[TickEnd]) -> IntArray:
    """Find the tick of each event, exact by counting.

    The clock decides only about events that are not counted, and for these only between the counted ones around.

    Args:
        rows: Events of one device in order.
        index: Its CUDA ordinal.
        before: Operations before the first event.
        ends: Ticks in order.

    Returns:
        For each event the place of its tick in `ends`, or `len(ends)` for those after the last.
    """
    reached, latest = [], before
    for end in ends:
        latest = max(latest, end.operations.get(index, latest))
        reached.append(latest)
    is_counted = counted(rows)
    passed = before + np.cumsum(is_counted)
    marks = np.array(reached, np.int64)
    place = np.searchsorted(marks, passed)
    following = np.searchsorted(marks, passed + 1)
    by_time = np.searchsorted(np.array([end.time_ns for end in ends], np.int64), rows[:, COLUMN["time_ns"]])
    place = np.where(is_counted, place, np.clip(by_time, place, following))
    return np.maximum.accumulate(place).astype(np.int64)

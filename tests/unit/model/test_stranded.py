"""Lines that hold split segments."""

from __future__ import annotations

import numpy as np

from memprof.model.memory import Account
from memprof.model.stranded import stranded_lines
from memprof.record.blocks import BlockAction, BlockLog
from memprof.record.events import DeviceState, Location
from memprof.record.schema import BLOCK_COLUMNS

MIB = 1 << 20
A = BlockAction
SMALL, LARGE = Location("train.py", 3, "train"), Location("train.py", 4, "train")


def log(*rows: tuple[int, int, int, int, int]) -> BlockLog:
    """Rows of tick, action, address, bytes and stack."""
    events = np.zeros((len(rows), len(BLOCK_COLUMNS)), np.int64)
    for row, (_, action, address, nbytes, stack) in enumerate(rows):
        values = {"action": action, "address": address, "nbytes": nbytes, "stack": stack}
        for name, value in values.items():
            events[row, BLOCK_COLUMNS.index(name)] = value
    return BlockLog(
        starts=(),
        events=events,
        ticks=np.array([row[0] for row in rows], np.int64),
        devices={0: "cuda:0"},
        stacks={1: (SMALL,), 2: (LARGE,)},
        user_lines={1: SMALL, 2: LARGE},
    )


def account(tick: int, inactive_split_bytes: int) -> Account:
    state = DeviceState("cuda:0", tick, 0, 0, 0, 0, 0, inactive_split_bytes, None, 0, 0, None, None)
    return Account(state, None)


def two_segments() -> BlockLog:
    """A small block keeps a segment of 100 MiB; another segment is filled by one line."""
    return log(
        (0, A.SEGMENT_ALLOC, 0, 100 * MIB, -1),
        (0, A.ALLOC, 0, 60 * MIB, 2),
        (0, A.ALLOC, 60 * MIB, 4 * MIB, 1),
        (0, A.SEGMENT_ALLOC, 200 * MIB, 30 * MIB, -1),
        (0, A.ALLOC, 200 * MIB, 30 * MIB, 2),
        (1, A.FREE_REQUESTED, 0, 60 * MIB, -1),
        (1, A.FREE_COMPLETED, 0, 60 * MIB, -1),
        (2, A.FREE_REQUESTED, 60 * MIB, 4 * MIB, -1),
        (2, A.FREE_COMPLETED, 60 * MIB, 4 * MIB, -1),
    )


def test_the_line_that_keeps_a_segment_is_named_with_what_is_free_in_it() -> None:
    accounts = {"cuda:0": (account(0, 36 * MIB), account(1, 96 * MIB), account(2, 0))}
    [line] = stranded_lines(two_segments(), accounts)["cuda:0"]
    assert (line.location, line.blocks, line.used_bytes, line.stranded_bytes) == (SMALL, 1, 4 * MIB, 96 * MIB)


def test_two_lines_in_one_segment_both_hold_it() -> None:
    lines = stranded_lines(two_segments(), {"cuda:0": (account(0, 36 * MIB),)})["cuda:0"]
    assert [(line.location, line.used_bytes, line.stranded_bytes) for line in lines] == [
        (SMALL, 4 * MIB, 36 * MIB),
        (LARGE, 60 * MIB, 36 * MIB),
    ]


def test_little_stranded_or_no_history_is_not_looked_at() -> None:
    assert stranded_lines(two_segments(), {"cuda:0": (account(0, MIB),)}) == {}
    assert stranded_lines(two_segments(), {}) == {}
    assert stranded_lines(None, {"cuda:0": (account(0, 96 * MIB),)}) == {}

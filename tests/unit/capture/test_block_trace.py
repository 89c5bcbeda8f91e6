"""Trace entries as packed rows, and the ticks they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memprof.capture.block_trace import COLUMN, FRAMELESS, TickEnd, TracePacker, kinds, places_in_ticks
from memprof.capture.frames import UserCode
from memprof.record.blocks import BlockAction, IntArray
from memprof.record.events import Location
from memprof.record.run_info import RunInfo
from memprof.record.schema import BLOCK_COLUMNS, NONE
from memprof.record.writer import RecordingWriter

ALLOC, REQUESTED, COMPLETED = BlockAction.ALLOC, BlockAction.FREE_REQUESTED, BlockAction.FREE_COMPLETED
SEGMENT, UNMAPPED = BlockAction.SEGMENT_ALLOC, BlockAction.SEGMENT_UNMAP


def rows(*events: tuple[BlockAction, int]) -> IntArray:
    """Events of an action at a time."""
    table = np.full((len(events), len(BLOCK_COLUMNS)), NONE, np.int64)
    for row, (action, time_ns) in zip(table, events, strict=True):
        row[COLUMN["action"]], row[COLUMN["time_ns"]] = action, time_ns
    return table


def places(table: IntArray, before: int, *ends: TickEnd) -> list[int]:
    return [int(place) for place in places_in_ticks(table, 0, before, ends)]


def test_counted_events_are_placed_by_their_number_whatever_the_clock_says() -> None:
    table = rows((ALLOC, 900), (ALLOC, 901), (REQUESTED, 5), (ALLOC, 6), (ALLOC, 7))
    assert places(table, 10, TickEnd(3, 100, {0: 12}), TickEnd(4, 200, {0: 14})) == [0, 0, 1, 1, 2]


def test_others_are_placed_by_time_between_the_counted_ones_around() -> None:
    table = rows((ALLOC, 10), (COMPLETED, 120), (UNMAPPED, 90), (SEGMENT, 130), (ALLOC, 131))
    assert places(table, 0, TickEnd(0, 100, {0: 1}), TickEnd(1, 200, {0: 2})) == [0, 1, 1, 1, 1]
    # Before the first tick's end by the clock, but after a block of the second tick.
    late = rows((ALLOC, 10), (ALLOC, 110), (SEGMENT, 50), (ALLOC, 120))
    assert places(late, 0, TickEnd(0, 100, {0: 1}), TickEnd(1, 200, {0: 3})) == [0, 1, 1, 1]


def test_ticks_without_operations_and_devices_that_come_late() -> None:
    table = rows((ALLOC, 250), (REQUESTED, 260))
    ends = (TickEnd(0, 100, {}), TickEnd(1, 200, {0: 0}), TickEnd(2, 300, {0: 2}), TickEnd(3, 400, {0: 2}))
    assert places(table, 0, *ends) == [2, 2]
    assert places(table, 0) == [0, 0]  # no tick has ended
    assert places(rows(), 0, *ends) == []


@pytest.fixture
def packer(tmp_path: Path) -> TracePacker:
    return TracePacker(RecordingWriter(tmp_path / "run.memprof", RunInfo()), UserCode())


def entry(action: str, frames: list[dict[str, Any]] | None = None, **values: int) -> dict[str, Any]:
    found: dict[str, Any] = {"action": action, "size": 512, "stream": 0, **values}
    return found if frames is None else {**found, "frames": frames}


def test_packed_entries(packer: TracePacker) -> None:
    frame = {"filename": "train.py", "line": 3, "name": "step"}
    library = {"filename": "<frozen x>", "line": 1, "name": "call"}
    table = packer.pack(
        1,
        [
            entry("alloc", [library, frame], addr=4096, time_us=7),
            entry("alloc", [library, frame], addr=8192, time_us=8),
            entry("alloc", [], addr=12288, time_us=9),
            entry("free_requested", addr=4096, time_us=10),
            entry("oom", [frame], device_free=5, time_us=11),
            entry("a new action", addr=1, time_us=12),
        ],
        offset_ns=-1000,
    )

    def column(name: str) -> list[int]:
        return [int(value) for value in table[:, COLUMN[name]]]

    other = int(BlockAction.OTHER)
    assert column("action") == [int(ALLOC), int(ALLOC), int(ALLOC), int(REQUESTED), int(BlockAction.OOM), other]
    assert column("time_ns") == [6000, 7000, 8000, 9000, 10000, 11000]
    assert column("address") == [4096, 8192, 12288, 4096, NONE, 1]
    assert column("nbytes") == [512] * 6
    first, second, third, *rest = column("stack")
    assert first == second >= 0
    assert third == FRAMELESS
    assert rest[0] == rest[2] == NONE
    assert rest[1] not in (first, NONE)
    user_line = packer.stack_of_line(Location("train.py", 3, "step"))
    facts = [packer.facts(stack) for stack in (first, rest[1], user_line)]
    assert len({fact.user_line for fact in facts}) == 1


def test_stacks_that_share_most_of_their_frames_are_told_apart(packer: TracePacker) -> None:
    shared = [{"filename": "library.py", "line": line, "name": "call"} for line in range(9)]
    lines = [{"filename": "train.py", "line": line, "name": "step"} for line in range(20)]
    stacks = [[*shared, line, shared[0]] for line in lines]
    table = packer.pack(0, [entry("alloc", stack[:], addr=0, time_us=0) for stack in (*stacks, *stacks)], 0)
    found = table[:, COLUMN["stack"]].tolist()
    assert found[:20] == found[20:]
    assert [packer.facts(stack).frames for stack in found] == [
        tuple(packer.facts(packer.stack([frame])).frames[0] for frame in stack) for stack in (*stacks, *stacks)
    ]


def test_different_rows_of_a_table() -> None:
    columns = [np.array(values, np.int64) for values in ([3, -1, 3, 3, -1], [0, 0, 0, 7, 0])]
    wide = [column * (1 << 40) for column in columns]  # too many codes for one number
    for one, two in (columns, wide):
        found, kind = kinds(one, two)
        assert sorted(map(tuple, found.tolist())) == sorted({*zip(one.tolist(), two.tolist(), strict=True)})
        assert found[kind].tolist() == np.stack((one, two), axis=1).tolist()
    found, kind = kinds(columns[0][:0], columns[1][:0])
    assert (len(found), len(kind)) == (0, 0)


def test_the_line_that_called_backward_is_for_what_the_engine_made(packer: TracePacker) -> None:
    library = {"filename": np.__file__, "line": 1, "name": "kernel"}
    module = {"filename": torch.nn.modules.module.__file__, "line": 1, "name": "_call_impl"}
    user = {"filename": "train.py", "line": 3, "name": "step"}
    backward = packer.stack_of_line(Location("train.py", 9, "step"))
    of_library, of_module, of_user = (packer.stack(frames) for frames in ([library], [library, module], [user]))
    assert packer.called_by(FRAMELESS, backward) == (backward, True)
    assert packer.called_by(FRAMELESS, NONE) == (NONE, False)  # no backward was running
    assert packer.called_by(of_library, NONE) == (of_library, False)
    assert packer.called_by(of_module, backward) == (of_module, False)  # a recomputation
    assert packer.called_by(of_user, backward) == (of_user, False)
    stack, by_engine = packer.called_by(of_library, backward)
    found = packer.facts(stack)
    assert by_engine
    assert found.frames == packer.facts(of_library).frames
    assert found.user_line == packer.facts(backward).user_line


def test_no_entries(packer: TracePacker) -> None:
    assert packer.pack(0, [], 0).shape == (0, len(BLOCK_COLUMNS))
    assert packer.stack_of_line(None) == NONE

"""Modules and forward lines of blocks, from made-up histories."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memprof.capture.block_places import BlockPlaces
from memprof.capture.block_trace import COLUMN, FRAMELESS, TracePacker
from memprof.capture.frames import UserCode
from memprof.capture.module_regions import ENDED, EVERY_DEVICE, Regions
from memprof.record.blocks import IntArray
from memprof.record.events import Location, ModuleRef
from memprof.record.reader import open_recording
from memprof.record.run_info import RunInfo
from memprof.record.schema import NONE
from memprof.record.writer import RecordingWriter

CALL = {"filename": torch.nn.modules.module.__file__, "line": 1, "name": "_call_impl"}
BACKWARD = Location("train.py", 90, "train")

Event = tuple[int, int, list[dict[str, Any]] | None]


def user(line: int) -> dict[str, Any]:
    return {"filename": "train.py", "line": line, "name": "forward"}


class History:
    """A history being made up; `us` is microseconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = RecordingWriter(path, RunInfo())
        self.packer = TracePacker(self.writer, UserCode())
        self.places = BlockPlaces(self.packer)
        self.modules = {name: self.writer.module_id(ModuleRef(name, "Linear")) for name in ("a", "b")}
        self.backward = self.packer.stack_of_line(BACKWARD)
        self._first = 0

    def regions(self, began: Sequence[tuple[int, str]], marks: Sequence[tuple[int, int, int]]) -> Regions:
        """Regions as they began (time, module), and marks (time, place of the region, device)."""
        first = self._first
        self._first += len(began)
        mark = np.array([(us * 1000, at + first if at >= 0 else at, to) for us, at, to in marks], np.int64)
        ns, region, device = mark.reshape(-1, 3).T
        return Regions(
            region=np.arange(first, self._first),
            begin_ns=np.array([us * 1000 for us, _ in began], np.int64),
            module=np.array([self.modules.get(name, NONE) for _, name in began], np.int64),
            mark_ns=ns,
            mark_region=region,
            mark_device=device,
        )

    def refined(
        self, began: Sequence[tuple[int, str]], marks: Sequence[tuple[int, int, int]], *events: Event
    ) -> IntArray:
        """Allocations (time, bytes, frames), those without frames by the engine, after they were refined."""
        self.packer.begin_snapshot()
        trace = [
            {"action": "alloc", "time_us": us, "addr": us, "size": size, "stream": 0, "frames": frames or []}
            for us, size, frames in events
        ]
        rows = self.packer.pack(0, trace, 0)
        by_engine = rows[:, COLUMN["stack"]] == FRAMELESS
        rows[by_engine, COLUMN["stack"]] = self.backward
        self.places.refine([(0, rows, by_engine)], self.regions(began, marks))
        return rows

    def told(self, rows: IntArray) -> list[tuple[str | None, int | None, int | None]]:
        """Module, forward line and line of each row, as a reader finds them."""
        self.writer.write_segments(0, array("q"))
        with open_recording(self.path) as recording:
            log = recording.block_log()
        assert log is not None
        return [
            (
                log.modules[stack].path if stack in log.modules else None,
                log.forward_lines[stack].line if stack in log.forward_lines else None,
                line.line if (line := log.user_lines[stack]) else None,
            )
            for stack in rows[:, COLUMN["stack"]].tolist()
        ]


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "run.memprof")


TRAINING = [(0, ""), (100, "a"), (200, "b"), (300, "")]


def train(history: History, *, marked: bool, sizes: tuple[int, ...] = (1, 2, 3), at: int = 0) -> IntArray:
    """Forward through `a`, which allocates from one line, and `b`, from two; then backward."""
    began = [(at + us, name) for us, name in TRAINING]
    nodes = [(at + 510, 2, 0), (at + 520, 1, 0)] if marked else []
    marks = [(at + 500, 3, EVERY_DEVICE), *nodes, (at + 530, ENDED, EVERY_DEVICE)]
    return history.refined(
        began,
        marks,
        (at + 110, 8, [CALL, user(1)]),
        (at + 120, 8, [CALL, user(1)]),
        (at + 210, 8, [CALL, user(2)]),
        (at + 220, 8, [CALL, user(3)]),
        (at + 230, 8, [user(50)]),  # another thread: no module is in its stack
        (at + 310, 8, [user(4)]),
        *((at + 505 + 10 * place, size, None) for place, size in enumerate(sizes)),
        (at + 527, 8, [CALL, user(1)]),  # a recomputation
    )


FORWARD = [("a", None, 1), ("a", None, 1), ("b", None, 2), ("b", None, 3), (None, None, 50), (None, None, 4)]
RECOMPUTED = (None, None, 1)
GRADIENTS = [(None, 4, 90), ("b", None, 90), ("a", 1, 90)]


def test_marks_tell_the_modules_of_backward_and_lines_where_there_is_one(history: History) -> None:
    assert history.told(train(history, marked=True)) == [*FORWARD, *GRADIENTS, RECOMPUTED]
    assert not history.places.all_known


def test_a_backward_that_goes_a_known_way_needs_no_marks(history: History) -> None:
    train(history, marked=True)
    again = train(history, marked=False, at=10_000)
    assert history.told(again) == [*FORWARD, *GRADIENTS, RECOMPUTED]
    assert history.places.all_known


def test_another_way_is_not_guessed(history: History) -> None:
    train(history, marked=True)
    other = train(history, marked=False, sizes=(1, 2, 4), at=10_000)
    assert history.told(other) == [*FORWARD, *[(None, None, 90)] * 3, RECOMPUTED]
    assert not history.places.all_known


def test_marks_of_another_device_do_not_count(history: History) -> None:
    marks = [(500, NONE, EVERY_DEVICE), (510, 1, 1), (530, ENDED, EVERY_DEVICE)]
    rows = history.refined(TRAINING, marks, (505, 1, None), (515, 1, None))
    assert history.told(rows) == [(None, None, 90), (None, None, 90)]


def test_without_modules_nothing_changes(history: History) -> None:
    rows = history.refined([(0, "")], [], (10, 8, [user(1)]))
    assert history.told(rows) == [(None, None, 1)]
    history.places.refine([], history.regions(TRAINING, []))

"""Ticks that wait beside the database: they are there after a kill, once, and belong to their recording only."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from memprof._errors import RecordingError
from memprof.record import journal as journals
from memprof.record import writer as writers
from memprof.record.events import Location, Phase, Tick, TickFlag
from memprof.record.journal import TickJournal, is_being_written, journal_of, read_journal
from memprof.record.reader import open_recording
from memprof.record.run_info import RunInfo
from memprof.record.writer import RecordingWriter

CALL = Location("train.py", 3, "main")


def tick(index: int) -> Tick:
    flags = TickFlag.FORWARD | TickFlag.BACKWARD
    return Tick(index, 10 * index, 10 * index + 9, flags, (index,), forward_bytes=7, epoch=2, call=CALL)


def write(writer: RecordingWriter, *indices: int) -> None:
    device = writer.name_id("cpu")
    for index in indices:
        samples = array("q", (10 * index, Phase.OTHER, 0, device, 4096 + index, -1, -1, -1))
        passes = array("q", (index, 0, 10 * index, 10 * index + 1, -1, -1, 0, -1, -1)), array("q", (index, index))
        writer.write_tick(tick(index), samples=samples, passes=passes)


def in_database(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [index for (index,) in connection.execute("SELECT id FROM tick ORDER BY id")]
    finally:
        connection.close()


def indices(path: Path) -> list[int]:
    with open_recording(path) as recording:
        for item in recording.ticks:
            expected = tick(item.index)
            assert (item.start_ns, item.end_ns, item.flags) == (expected.start_ns, expected.end_ns, expected.flags)
            assert (item.consumed, item.forward_bytes, item.epoch) == (expected.consumed, 7, 2)
            assert item.call == CALL
            assert [sample.allocated_bytes for sample in item.samples] == [4096 + item.index]
        assert [(item.id, item.tick, item.uses) for item in recording.passes] == [
            (item.index, item.index, (item.index,)) for item in recording.ticks
        ]
        return [item.index for item in recording.ticks]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.memprof"


def test_ticks_wait_beside_the_database_and_are_read_from_there(path: Path) -> None:
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0, 1, 2)
    assert in_database(path) == [0]  # the first brought a line with it
    assert indices(path) == [0, 1, 2]
    writer.finish(RunInfo())
    assert in_database(path) == indices(path) == [0, 1, 2]
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_whatever_else_is_written_takes_the_waiting_ticks_along(path: Path) -> None:
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0, 1, 2)
    writer.write_segments(2, array("q"))
    assert in_database(path) == [0, 1, 2]
    write(writer, 3)
    assert in_database(path) == [0, 1, 2]
    assert indices(path) == [0, 1, 2, 3]
    writer.finish(RunInfo())


def test_few_ticks_wait_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_MOST_TICKS", 4)
    writer = RecordingWriter(path, RunInfo())
    sizes = []
    for index in range(20):
        write(writer, index)
        sizes.append(journal_of(path).stat().st_size)
        assert indices(path) == list(range(index + 1))
    assert len(set(sizes)) == 5
    writer.finish(RunInfo())


def test_a_long_tick_goes_into_the_database_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_LONGEST", 64)
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0, 1, 2)
    assert in_database(path) == [0, 1, 2]
    writer.finish(RunInfo())


_KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from tests.unit.record.test_journal import RecordingWriter, RunInfo, write
write(RecordingWriter(Path(sys.argv[1]), RunInfo()), 0, 1, 2)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_ticks_outlive_sigkill_and_the_next_recording_does_not_inherit_them(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(path)], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -signal.SIGKILL
    assert in_database(path) == [0]
    assert indices(path) == [0, 1, 2]
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0)
    assert indices(path) == [0]
    writer.finish(RunInfo())


def test_ticks_that_the_database_knows_too_are_there_once(path: Path) -> None:
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0, 1, 2)
    beside = journal_of(path).read_bytes()
    writer.write_run(RunInfo())
    journal_of(path).write_bytes(beside)  # killed between the commit and the cut
    assert in_database(path) == [0, 1, 2]
    assert indices(path) == [0, 1, 2]
    writer.finish(RunInfo())


def test_a_journal_of_another_recording_is_passed_over(path: Path) -> None:
    other = path.with_name("other.memprof")
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0, 1)
    beside = journal_of(path).read_bytes()
    writer.finish(RunInfo())
    finished = RecordingWriter(other, RunInfo())
    write(finished, 0)
    finished.finish(RunInfo())
    journal_of(other).write_bytes(beside)
    assert indices(other) == [0]


def test_a_recording_that_is_being_written_is_left_to_its_run(path: Path) -> None:
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0)
    assert is_being_written(path)
    with pytest.raises(RecordingError, match="another run is writing .*; choose another file with -o"):
        RecordingWriter(path, RunInfo())
    assert indices(path) == [0]
    writer.finish(RunInfo())
    assert not is_being_written(path)

    journal_of(path).write_bytes(b"left behind by a run that was killed")
    assert not is_being_written(path)
    RecordingWriter(path, RunInfo()).finish(RunInfo())


def test_a_journal_is_read_as_far_as_it_is_sound(path: Path) -> None:
    journal = TickJournal(path)
    row = (0, 1, 2, 3, 4, None, None, None, b"12345678", None, b"x")
    assert journal.take(row)
    assert journal.take((1, *row[1:]))
    whole = journal_of(path).read_bytes()
    name, rows = read_journal(path)
    assert (name, rows) == (journal.name, (row, (1, *row[1:])))
    for size in range(len(whole)):
        journal_of(path).write_bytes(whole[:size])
        assert len(read_journal(path)[1]) <= 1
    for at in range(len(whole)):
        journal_of(path).write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        name, rows = read_journal(path)
        assert name != journal.name or len(rows) < 2
    journal.close(delete=True)
    assert read_journal(path) == ("", ())


def test_a_sound_journal_of_nonsense_is_an_error(path: Path) -> None:
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0)
    name = journal_of(path).read_bytes()
    other = TickJournal(path)  # over the first one's file
    assert other.take((1, 0, 9, 1, 0, None, None, None, b"seven b", None, None))
    journal_of(path).write_bytes(name + journal_of(path).read_bytes()[len(name) :])
    with pytest.raises(RecordingError, match="is damaged and cannot be read"):
        open_recording(path)
    other.close(delete=True)


def test_without_a_journal_each_tick_is_a_transaction(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Path) -> TickJournal:
        raise PermissionError

    monkeypatch.setattr(writers, "TickJournal", refused)
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0, 1)
    assert in_database(path) == [0, 1]
    writer.finish(RunInfo())
    assert indices(path) == [0, 1]


def test_a_journal_that_cannot_be_written_leaves_the_tick_to_the_database(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordingWriter(path, RunInfo())
    write(writer, 0, 1)

    def full(_file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    write(writer, 2)
    assert in_database(path) == [0, 1, 2]
    monkeypatch.undo()
    write(writer, 3, 4)
    assert in_database(path) == [0, 1, 2]
    assert indices(path) == [0, 1, 2, 3, 4]
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:9]))
    write(writer, 5)
    assert in_database(path) == indices(path) == [0, 1, 2, 3, 4, 5]
    monkeypatch.undo()
    write(writer, 6)
    assert indices(path) == [0, 1, 2, 3, 4, 5, 6]
    writer.finish(RunInfo())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_journal_is_no_program(path: Path) -> None:
    writer = RecordingWriter(path, RunInfo())
    assert not journal_of(path).stat().st_mode & 0o111
    writer.finish(RunInfo())


class Interrupting:
    """A connection in the midst of whose transaction the user presses Ctrl-C."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def executemany(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_commit_is_made_good_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "run.memprof"
    writer = RecordingWriter(path, RunInfo())
    connection = writer._connection
    for index in range(3):
        writer.write_tick(tick(index))  # the first is committed with the line it names, the others wait in the journal
    writer._connection = Interrupting(connection)  # type: ignore[assignment]
    device = writer.name_id("cpu")
    with pytest.raises(KeyboardInterrupt):
        writer.write_tick(tick(3), array("q", [0, 30, 3, 0, 8, device, device, device, -1, -1, -1, -1]))
    assert not connection.in_transaction
    writer._connection = connection
    writer.write_tick(tick(4))
    writer.finish(RunInfo())
    assert not writer.in_memory
    recording = open_recording(path)
    assert recording.ticks == tuple(map(tick, range(5)))
    assert [birth.device for birth in recording.births()] == ["cpu"]

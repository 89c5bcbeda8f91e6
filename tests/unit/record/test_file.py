"""The file: round trip, crashes, foreign and damaged files, a full disk."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memprof import RecordingError, RecordingVersionError
from memprof.record import codec, schema
from memprof.record import writer as writer_module
from memprof.record.census import Census, GraphRoot, HeldGroup, Holder
from memprof.record.events import DeviceState, OutOfMemory, ParameterProfile, Tick, TickFlag
from memprof.record.reader import Recording, open_recording
from memprof.record.run_info import RunInfo
from memprof.record.writer import RecordingWriter, is_recording
from tests.unit.record import recordings as all_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.memprof"


# ---- round trip ------------------------------------------------------------------------------


def _assert_holds_all(recording: Recording) -> None:
    assert recording.run == all_events.RUN
    assert recording.ticks == all_events.TICKS
    assert recording.censuses == (all_events.CENSUS,)
    assert tuple(recording.births()) == all_events.BIRTHS
    assert tuple(recording.deaths()) == all_events.DEATHS
    assert tuple(recording.roles()) == all_events.ROLES
    assert recording.states == all_events.STATES
    assert recording.ooms == all_events.OOMS
    assert recording.passes == all_events.PASSES
    assert recording.parameters == all_events.PARAMETERS
    assert recording.last_uses() == all_events.LAST_USES
    log = recording.block_log()
    assert log is not None
    assert [log.devices[code] for code in log.events[:, 0].tolist()] == ["cuda:0"] * 3
    assert [tuple(row) for row in log.events[:, [1, 2, 3, 4, 6]].tolist()] == [tuple(row) for row in all_events.BLOCKS]
    assert log.ticks.tolist() == [1, 1, 1]
    assert [(tick, table[:, 1:].tolist()) for tick, table in log.starts] == [(1, [list(all_events.SEGMENT)])]
    assert log.stacks == dict.fromkeys((0, 1), (all_events.FORWARD_LINE, all_events.LINE))
    assert log.user_lines == dict.fromkeys((0, 1), all_events.LINE)
    assert log.modules == {1: all_events.MODULE}
    assert log.forward_lines == {1: all_events.FORWARD_LINE}
    assert log.settings == all_events.RUN.allocator_settings


def test_every_event_comes_back_as_it_was_written(path: Path) -> None:
    all_events.write_all(path)
    with open_recording(path) as recording:
        _assert_holds_all(recording)
        assert recording.path == path


def test_a_recording_of_format_2_has_no_passes(path: Path) -> None:
    all_events.write_all(path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE parameters")
        for table, column in (("tick", "passes"), ("tick", "uses"), ("storages", "last_uses")):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with open_recording(path) as recording:
        assert (recording.passes, recording.parameters, recording.last_uses()) == ((), (), {})
        assert recording.ticks == all_events.TICKS
        assert tuple(recording.births()) == all_events.BIRTHS


def test_stacks_of_older_recordings_say_no_module(path: Path) -> None:
    all_events.write_all(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("ALTER TABLE stack DROP COLUMN module")
    connection.execute("ALTER TABLE stack DROP COLUMN forward_location")
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with open_recording(path) as recording:
        log = recording.block_log()
    assert log is not None
    assert list(log.stacks) == [0, 1]
    assert log.modules == log.forward_lines == {}


def test_values_come_back_with_their_types(path: Path) -> None:
    all_events.write_all(path)
    with open_recording(path) as recording:
        assert type(recording.ticks[1].flags) is TickFlag
        assert type(recording.ticks[1].samples[0].ends) is bool
        assert type(next(recording.births()).phase).__name__ == "Phase"
        assert type(next(recording.roles()).role).__name__ == "Role"


@pytest.mark.parametrize("kind", [Holder, GraphRoot, HeldGroup, Census, RunInfo, Tick, DeviceState, OutOfMemory])
def test_the_sample_recording_sets_every_field_to_something_else_than_its_default(kind: type) -> None:
    # A field somebody adds and forgets to read back is found only when it has a value of its own here.
    samples = {
        Holder: all_events.HOLDER,
        GraphRoot: all_events.CENSUS.roots[0],
        HeldGroup: all_events.CENSUS.groups[0],
        Census: all_events.CENSUS,
        RunInfo: dataclasses.replace(all_events.RUN, exit_status=1, exception="E", finished=True),
        Tick: all_events.TICKS[1],
        DeviceState: all_events.STATES[0],
        OutOfMemory: all_events.OOMS[0],
    }
    for item in dataclasses.fields(kind):
        default = (
            item.default_factory()
            if item.default is dataclasses.MISSING and callable(item.default_factory)
            else item.default
        )
        assert getattr(samples[kind], item.name) != default, item.name


def _classes_in(hint: object) -> Iterator[type]:
    """The dataclasses and named tuples that a type is made of."""
    for inner in typing.get_args(hint):
        yield from _classes_in(inner)
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "_fields")):
        yield hint
        for field in typing.get_type_hints(hint).values():
            yield from _classes_in(field)


def test_a_change_of_what_is_written_raises_the_version_of_the_format(golden: Callable[[str, str], None]) -> None:
    # An older memprof cannot read a key it does not know, and says of a file of its own version that it is damaged. Only
    # keys of `RunInfo` are passed over. So where this differs: raise the version, and let it write a file of a new name.
    kinds = dict.fromkeys(kind for root in (Census, DeviceState, OutOfMemory, ParameterProfile, RunInfo)
                          for kind in _classes_in(root) if kind is not RunInfo)  # fmt: skip
    lines = [f"{kind.__name__}: {', '.join(typing.get_type_hints(kind))}" for kind in kinds]
    lines += [f"{name}: {', '.join(columns)}" for name, columns in sorted(vars(schema).items()) if "COLUMNS" in name]
    golden(f"record/format_{schema.FORMAT_VERSION}.txt", schema.TABLES.lstrip() + "\n".join(sorted(lines)) + "\n")


def test_a_census_of_the_first_format_is_read() -> None:
    new = ("regions", "kept_graphs", "contexts", "gradients", "populations")
    data = json.loads(codec.dump(all_events.CENSUS))
    for key in new:
        del data[key]
    for held in (*data["roots"], *data["groups"]):
        del held["holder"]["keyed_by"], held["holder"]["hits"]
        held.pop("parameter", None)
        held.pop("written_at", None)
        held.pop("holds_parts", None)
    census = codec.load_census(json.dumps(data))
    assert (census.roots[0].parameter, census.roots[0].holds_parts) == (None, None)
    assert census.roots[0].holder == dataclasses.replace(all_events.HOLDER, keyed_by="", hits=None)
    assert [getattr(census, key) for key in new] == [(), (), (), None, ()]


def test_finish_keeps_the_last_run_facts_and_leaves_no_log_beside_the_file(path: Path) -> None:
    writer = all_events.write_all(path, finish=False)
    last = dataclasses.replace(all_events.RUN, exit_status=1, exception="ValueError: x", finished=True)
    writer.finish(last)
    with open_recording(path) as recording:
        assert recording.run == last
    assert sorted(item.name for item in path.parent.iterdir()) == [path.name]


def test_a_running_recording_can_be_read(path: Path) -> None:
    writer = all_events.write_all(path, finish=False)
    with open_recording(path) as recording:
        _assert_holds_all(recording)
        assert not recording.run.finished
    writer.finish(all_events.RUN)


@pytest.mark.parametrize(
    ("table", "column", "key", "value"),
    [
        ("meta", "value", "$.script", 5),
        ("meta", "value", "$.exit_status", '"x"'),
        ("meta", "value", "$.notes", "[1, null]"),
        ("meta", "value", "$.counter", "[1]"),
        ("meta", "value", "$.allocator_settings", "5"),
        ("meta", "value", "$.failure.features", '["x", "y"]'),
        ("meta", "value", "$.optimizers[0].state_bytes", '"much"'),
        ("device_state", "data", "$.allocated_bytes", '"x"'),
        ("device_state", "data", "$.active_bytes", "null"),
        ("oom", "data", "$.requested_bytes", '"many"'),
        ("census", "data", "$.roots[0].nodes", '"x"'),
        ("census", "data", "$.groups[0].storages", '["a"]'),
        ("parameters", "data", "$.shares[0].nbytes", "null"),
    ],
)
def test_a_fact_of_another_type_is_damage(path: Path, table: str, column: str, key: str, value: object) -> None:
    # Where it got through, the report would fail on it, or say it.
    all_events.write_all(path)
    with sqlite3.connect(path) as connection:
        where = "WHERE key = 'run'" if table == "meta" else ""
        connection.execute(f"UPDATE {table} SET {column} = json_set({column}, '{key}', json('{value}')) {where}")
    connection.close()
    with pytest.raises(RecordingError, match="is damaged and cannot be read"):
        open_recording(path)


def test_run_facts_of_a_newer_version_are_passed_over(path: Path) -> None:
    all_events.write_all(path)
    with sqlite3.connect(path) as connection:
        connection.execute("""UPDATE meta SET value = json_set(value, '$.invented', 1) WHERE key = 'run'""")
    connection.close()
    with open_recording(path) as recording:
        assert recording.run == all_events.RUN


# ---- crashes ---------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.record import recordings
recordings.write_all(Path(sys.argv[1]), finish=False)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_all_committed_ticks_outlive_sigkill(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(path)], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -signal.SIGKILL
    with open_recording(path) as recording:
        _assert_holds_all(recording)
        assert not recording.run.finished
        assert recording.run.exit_status is None


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_killed_recording_on_a_read_only_disk_opens(path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(path)], cwd=Path(__file__).parents[3], check=False)
    path.parent.chmod(0o555)
    try:
        with open_recording(path) as recording:
            assert recording.run.level == "tensors"
    finally:
        path.parent.chmod(0o755)


# ---- what is no recording --------------------------------------------------------------------


def test_no_such_file(path: Path) -> None:
    with pytest.raises(RecordingError, match=r"there is no recording at .*run\.memprof"):
        open_recording(path)


def test_a_folder_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="there is no recording"):
        open_recording(tmp_path)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"import torch\n" * 100, b"\0" * 4096])
def test_a_foreign_file_is_no_recording(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(RecordingError, match="is not a memprof recording"):
        open_recording(path)
    assert path.read_bytes() == content


def test_another_sqlite_database_is_no_recording(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tick (id INTEGER)")
    connection.close()
    assert not is_recording(path)
    with pytest.raises(RecordingError, match="is not a memprof recording"):
        open_recording(path)


@pytest.mark.parametrize("keep", [72, 100, 4096, 9000])
def test_a_truncated_recording_is_damaged(path: Path, keep: int) -> None:
    all_events.write_all(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecordingError, match="damaged"):
        open_recording(path)


def test_a_newer_format_asks_for_an_upgrade(path: Path) -> None:
    all_events.write_all(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {schema.FORMAT_VERSION + 41}")
    connection.close()
    with pytest.raises(RecordingVersionError, match="pip install --upgrade") as caught:
        open_recording(path)
    assert (caught.value.found, caught.value.supported) == (schema.FORMAT_VERSION + 41, schema.FORMAT_VERSION)


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE tick",
        "UPDATE meta SET value = '[]'",
        "UPDATE meta SET value = '{'",
        "UPDATE meta SET value = '{\"argv\": 5}'",
        "UPDATE census SET data = '[]'",
        "UPDATE census SET data = '{}'",
        "UPDATE census SET data = '\"text\"'",
        "UPDATE census SET data = json_set(data, '$.roots[0].surplus', 1)",
        "UPDATE census SET data = json_set(data, '$.roots', 'abc')",
        "UPDATE census SET data = json_set(data, '$.roots[0].location', 7)",
        "UPDATE census SET data = json_set(data, '$.groups[0].holder', NULL)",
        "UPDATE tick SET samples = x'00'",
        "UPDATE tick SET samples = x'0000000000000000'",
        "UPDATE tick SET samples = 'text'",
        "UPDATE tick SET consumed = 12",
        "UPDATE tick SET flags = 'many'",
        "UPDATE tick SET start_ns = x'ff'",
        "UPDATE location SET line = 'x'",
        "UPDATE location SET file = CAST(x'ff' AS TEXT)",
        "DELETE FROM name",
    ],
)
def test_damage_to_what_is_read_at_once_is_told_when_opening(path: Path, damage: str) -> None:
    all_events.write_all(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(damage)
    connection.close()
    with pytest.raises(RecordingError, match="damaged"):
        open_recording(path)


@pytest.mark.parametrize(
    ("damage", "view"),
    [
        ("UPDATE storages SET births = x'00'", "births"),
        ("UPDATE storages SET births = x'0000000000000000'", "births"),
        ("UPDATE storages SET births = 7", "births"),
        (f"UPDATE storages SET births = x'{'77' * 88}'", "births"),
        (f"UPDATE storages SET deaths = x'{'77' * 32}'", "deaths"),
        ("UPDATE storages SET deaths = 'text'", "deaths"),
        ("DROP TABLE storages", "births"),
        ("UPDATE blocks SET events = x'00'", "block_log"),
        ("UPDATE segments SET data = x'0000000000000000'", "block_log"),
        ("UPDATE stack SET frames = 'text'", "block_log"),
        ("DROP TABLE stack", "block_log"),
        ("UPDATE role SET role = 'x'", "roles"),
        ("DROP TABLE role", "roles"),
    ],
)
def test_damage_to_what_is_read_later_is_told_then(path: Path, damage: str, view: str) -> None:
    all_events.write_all(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(damage)
    connection.close()
    with open_recording(path) as recording, pytest.raises(RecordingError, match="damaged"):
        list(getattr(recording, view)())


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("valid") / "run.memprof"
    all_events.write_all(path)
    return path


_PLACE = st.integers(0, 1 << 20)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.booleans(), _PLACE, st.integers(0, 255)), max_size=12), cut=st.none() | _PLACE)
def test_any_bytes_give_a_recording_or_a_recording_error(
    tmp_path: Path, valid: Path, changes: list[tuple[bool, int, int]], cut: int | None
) -> None:
    content = bytearray(valid.read_bytes())
    used = [place for place, byte in enumerate(content) if byte]
    for in_use, place, byte in changes:
        # Places drawn from all would mostly meet the empty part of a page.
        content[used[place % len(used)] if in_use else place % len(content)] = byte
    if cut is not None:
        del content[cut % len(content) :]
    file = tmp_path / "mutated.memprof"
    file.write_bytes(content)
    try:
        with open_recording(file) as recording:
            list(recording.births())
            list(recording.deaths())
            list(recording.roles())
    except RecordingError:
        pass
    for left in tmp_path.glob("mutated*"):
        left.unlink()


# ---- writing ---------------------------------------------------------------------------------


def test_a_foreign_file_is_not_overwritten(path: Path) -> None:
    path.write_text("my thesis")
    with pytest.raises(RecordingError, match="choose another file with -o"):
        RecordingWriter(path, all_events.RUN)
    assert path.read_text() == "my thesis"


def test_an_older_recording_is_replaced(path: Path) -> None:
    all_events.write_all(path)
    RecordingWriter(path, all_events.RUN).finish(all_events.RUN)
    with open_recording(path) as recording:
        assert recording.ticks == ()


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot write the recording to"):
        RecordingWriter(tmp_path / "none" / "run.memprof", all_events.RUN)


def _many_ticks(writer: RecordingWriter, first: int, last: int) -> list[Tick]:
    ticks = []
    for index in range(first, last):
        tick = dataclasses.replace(all_events.TICKS[1], index=index, consumed=tuple(range(200)))
        births = all_events.packed_births(writer, all_events.BIRTHS[1:])
        births[7] = writer.name_id(f"aten::op{index}")
        writer.write_tick(tick, births, None, all_events.ROLES)
        ticks.append(tick)
    return ticks


def test_a_full_disk_moves_the_recording_to_memory_and_loses_nothing(path: Path) -> None:
    told: list[str] = []
    writer = RecordingWriter(path, all_events.RUN, on_failure=told.append)
    ticks = _many_ticks(writer, 0, 4)
    pages = writer._connection.execute("PRAGMA page_count").fetchone()[0]
    writer._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    ticks += _many_ticks(writer, 4, 40)
    writer.write_census(all_events.CENSUS)
    writer.finish(all_events.RUN)

    assert writer.in_memory
    assert writer.memory is not None
    assert len(told) == 1
    assert "recording goes on in memory" in told[0]
    recording = Recording(writer.memory, None)
    assert recording.ticks == tuple(ticks)
    assert [birth.op for birth in recording.births()] == [f"aten::op{index}" for index in range(40)]
    assert len(list(recording.roles())) == 40 * len(all_events.ROLES)
    assert recording.censuses == (all_events.CENSUS,)
    recording.close()


def test_what_reached_the_disk_before_it_failed_stays_there(path: Path) -> None:
    writer = RecordingWriter(path, all_events.RUN)
    ticks = _many_ticks(writer, 0, 4)
    pages = writer._connection.execute("PRAGMA page_count").fetchone()[0]
    writer._connection.execute(f"PRAGMA max_page_count = {pages}")
    _many_ticks(writer, 4, 20)
    writer.finish(all_events.RUN)
    assert writer.memory is not None
    writer.memory.close()
    with open_recording(path) as recording:
        assert recording.ticks[:4] == tuple(ticks)
        assert len(recording.ticks) < 20


def test_a_recording_that_is_too_large_for_memory_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    writer = RecordingWriter(path, all_events.RUN, on_failure=told.append)
    ticks = _many_ticks(writer, 0, 4)
    monkeypatch.setattr(writer_module, "MOST_IN_MEMORY_BYTES", 1 << 18)
    writer._connection.execute(f"PRAGMA max_page_count = {writer._nbytes() // 4096 + 2}")
    ticks += _many_ticks(writer, 4, 2000)
    writer.write_census(all_events.CENSUS)
    writer.finish(dataclasses.replace(all_events.RUN, finished=True))

    assert writer.memory is not None
    assert [sentence.rpartition("; ")[2] for sentence in told] == [
        "recording goes on in memory and the file ends here",
        "the recording ends here",
    ]
    recording = Recording(writer.memory, None)
    assert 20 < len(recording.ticks) < 2000
    assert recording.ticks == tuple(ticks[: len(recording.ticks)])
    assert len(list(recording.births())) == len(recording.ticks)
    assert recording.run.finished
    recording.close()


def test_a_large_file_is_not_brought_into_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    writer = RecordingWriter(path, all_events.RUN, on_failure=told.append)
    _many_ticks(writer, 0, 40)
    monkeypatch.setattr(writer_module, "MOST_IN_MEMORY_BYTES", 1 << 16)
    writer._connection.execute(f"PRAGMA max_page_count = {writer._nbytes() // 4096}")
    _many_ticks(writer, 40, 80)
    writer.finish(all_events.RUN)
    assert not writer.in_memory
    assert len(set(told)) == 1
    with open_recording(path) as recording:
        assert 40 <= len(recording.ticks) < 80


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed")
@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_recording_that_was_removed_meanwhile_is_kept_in_memory(tmp_path: Path, whole_folder: bool) -> None:
    told: list[str] = []
    folder = tmp_path / "folder"
    folder.mkdir()
    writer = RecordingWriter(folder / "run.memprof", all_events.RUN, on_failure=told.append)
    ticks = _many_ticks(writer, 0, 10)
    shutil.rmtree(folder) if whole_folder else writer.path.unlink()
    ticks += _many_ticks(writer, 10, 20)
    writer.finish(dataclasses.replace(all_events.RUN, finished=True))

    assert [sentence.partition("(")[2].partition(")")[0] for sentence in told] == ["it has been removed"]
    assert writer.memory is not None
    recording = Recording(writer.memory, None)
    assert recording.ticks == tuple(ticks)
    assert recording.run.finished
    recording.close()


# ---- without torch ---------------------------------------------------------------------------


def test_reading_and_diagnosing_need_no_torch(path: Path) -> None:
    all_events.write_all(path)
    program = (
        "import sys; sys.modules['torch'] = None; import memprof\n"
        f"recording = memprof.open_recording({str(path)!r})\n"
        "assert len(list(recording.births())) == 2\n"
        "memprof.diagnose(recording)\n"
        "try:\n    memprof.Profiler().__enter__()\n"
        "except memprof.TorchUnavailableError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PyTorch cannot be imported" in done.stdout

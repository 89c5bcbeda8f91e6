"""Opens recordings. Needs no torch."""

from __future__ import annotations

import os
import sqlite3
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from memprof._errors import RecordingError, RecordingVersionError
from memprof.record import codec, schema
from memprof.record.blocks import BlockLog, IntArray
from memprof.record.census import Census
from memprof.record.events import (
    Birth,
    Death,
    DeviceState,
    Location,
    ModuleRef,
    OutOfMemory,
    ParameterProfile,
    Pass,
    PassFlag,
    PassKind,
    Phase,
    Role,
    RoleFact,
    Sample,
    Tick,
    TickFlag,
)
from memprof.record.journal import META_KEY, TickRow, read_journal
from memprof.record.run_info import RunInfo
from memprof.record.writer import is_recording

_PASSES_SINCE = 3
"""The format that first had passes, profiles of parameters and last uses."""
_STACKS_SAY_MODULE = 4
"""The format in which stacks first said which module their blocks are for."""


class Recording:
    """A recording, opened for reading.

    Attributes:
        path: The file, or None for a recording that lives in memory.
        history: None: it is the recording of a run.
        run: Facts about the run.
        ticks: All ticks in order.
        censuses: What outlived its iteration, in order of time.
        states: What was known of each CUDA device when ticks ended.
        ooms: Out-of-memory errors in order of time.
        passes: Forwards, backwards, steps and calls of `zero_grad` in order; () in recordings of format 1 and 2.
        parameters: What the parameters of root modules were like; () in recordings of format 1 and 2.
    """

    history: None = None

    def __init__(
        self, connection: sqlite3.Connection, path: Path | None, journal: tuple[str, tuple[TickRow, ...]] = ("", ())
    ) -> None:
        self.path = path
        self._connection = connection
        with _Reading(path):
            (self._version,) = connection.execute("PRAGMA user_version").fetchone()
            rows = self._tick_rows(*journal)
            self._names = {row[0]: str(row[1]) for row in connection.execute("SELECT id, text FROM name")}
            self._locations = {
                row[0]: Location(str(row[1]), int(row[2]), str(row[3]))
                for row in connection.execute("SELECT id, file, line, function FROM location")
            }
            self._modules = {
                row[0]: ModuleRef(str(row[1]), str(row[2]))
                for row in connection.execute("SELECT id, path, type_name FROM module")
            }
            row = connection.execute("SELECT value FROM meta WHERE key = 'run'").fetchone()
            self.run: RunInfo = codec.load_run(row[0]) if row else RunInfo()
            self.ticks: tuple[Tick, ...] = tuple(self._read_ticks(rows))
            self.censuses: tuple[Census, ...] = tuple(
                codec.load_census(text) for (text,) in connection.execute("SELECT data FROM census ORDER BY id")
            )
            self.states: tuple[DeviceState, ...] = tuple(
                codec.load_state(text) for (text,) in connection.execute("SELECT data FROM device_state ORDER BY id")
            )
            self.ooms: tuple[OutOfMemory, ...] = tuple(
                codec.load_oom(text) for (text,) in connection.execute("SELECT data FROM oom ORDER BY id")
            )
            self.passes: tuple[Pass, ...] = tuple(self._read_passes(rows))
            self.parameters: tuple[ParameterProfile, ...] = tuple(self._read_parameters())

    def births(self) -> Iterator[Birth]:
        """All births in order of time."""
        names, locations, modules = self._names, self._locations, self._modules
        with _Reading(self.path):
            for row in self._rows("births", len(schema.BIRTH_COLUMNS)):
                yield Birth(
                    storage=row[0],
                    time_ns=row[1],
                    tick=row[2],
                    phase=Phase(row[3]),
                    nbytes=row[4],
                    dtype=names[row[5]],
                    device=names[row[6]],
                    op=names[row[7]],
                    location=locations.get(row[8]),
                    forward_location=locations.get(row[9]),
                    module=modules.get(row[10]),
                    address=None if row[11] == schema.NONE else row[11],
                )

    def deaths(self) -> Iterator[Death]:
        """All deaths in order of time."""
        with _Reading(self.path):
            for row in self._rows("deaths", len(schema.DEATH_COLUMNS)):
                yield Death(row[0], row[1], row[2], Phase(row[3]))

    def roles(self) -> Iterator[RoleFact]:
        """All roles in the order they were found."""
        with _Reading(self.path):
            for storage, role, name in self._connection.execute("SELECT storage, role, name FROM role ORDER BY rowid"):
                yield RoleFact(int(storage), Role(role), str(name))

    def block_log(self) -> BlockLog | None:
        """What the caching allocators did, or None where their history was not recorded."""
        with _Reading(self.path):
            starts = list(self._connection.execute("SELECT tick, data FROM segments ORDER BY id"))
            if not starts:
                return None
            rows: list[IntArray] = []
            ticks: list[IntArray] = []
            for tick, blob in self._connection.execute("SELECT tick, events FROM blocks ORDER BY id"):
                rows.append(_table(blob, len(schema.BLOCK_COLUMNS)))
                ticks.append(np.full(len(rows[-1]), tick, np.int64))
            stacks: dict[int, tuple[int, IntArray]] = {}
            modules: dict[int, ModuleRef] = {}
            forward_lines: dict[int, Location] = {}
            made_for = "module, forward_location" if self._version >= _STACKS_SAY_MODULE else "-1, -1"
            query = f"SELECT id, location, frames, {made_for} FROM stack"
            for key, location, frames, module, forward_location in self._connection.execute(query):
                stacks[int(key)] = (int(location), np.frombuffer(frames, "<i8"))
                if module != schema.NONE:
                    modules[int(key)] = self._modules[module]
                if forward_location != schema.NONE:
                    forward_lines[int(key)] = self._locations[forward_location]
            return BlockLog(
                starts=tuple((int(tick), _table(blob, len(schema.SEGMENT_COLUMNS))) for tick, blob in starts),
                events=np.concatenate(rows) if rows else np.zeros((0, len(schema.BLOCK_COLUMNS)), np.int64),
                ticks=np.concatenate(ticks) if ticks else np.zeros(0, np.int64),
                devices=self._names,
                stacks={key: tuple(self._locations[int(line)] for line in lines) for key, (_, lines) in stacks.items()},
                user_lines={key: self._locations.get(location) for key, (location, _) in stacks.items()},
                settings=self.run.allocator_settings,
                modules=modules,
                forward_lines=forward_lines,
            )

    def close(self) -> None:
        """Close the file; births, deaths and roles can no longer be read."""
        self._connection.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _tick_rows(self, name: str, journal: tuple[TickRow, ...]) -> list[TickRow]:
        """The table `tick`, and what only the journal of that name knows of it yet."""
        columns = "id, start_ns, end_ns, flags, epoch, call, forward_bytes, consumed, samples, "
        columns += "passes, uses" if self._version >= _PASSES_SINCE else "NULL, NULL"
        rows: list[TickRow] = self._connection.execute(f"SELECT {columns} FROM tick ORDER BY id").fetchall()
        own = self._connection.execute("SELECT value FROM meta WHERE key = ?", (META_KEY,)).fetchone()
        if own is not None and own[0] == name:
            last = rows[-1][0] if rows else -1
            rows += (row for row in journal if row[0] > last)
        return rows

    def _read_ticks(self, rows: list[TickRow]) -> Iterator[Tick]:
        for index, start, end, flags, epoch, call, forward_bytes, consumed, samples, *_ in rows:
            yield Tick(
                index=int(index),
                start_ns=int(start),
                end_ns=int(end),
                flags=TickFlag(flags),
                consumed=tuple(_integers(consumed or b"")),
                samples=tuple(
                    Sample(
                        row[0],
                        Phase(row[1]),
                        bool(row[2]),
                        self._names[row[3]],
                        row[4],
                        None if row[5] == schema.NONE else row[5],
                        None if row[6] == schema.NONE else row[6],
                        None if row[7] == schema.NONE else row[7],
                    )
                    for row in _split(_integers(samples or b""), len(schema.SAMPLE_COLUMNS))
                ),
                forward_bytes=forward_bytes,
                epoch=int(epoch),
                call=self._locations.get(call),
            )

    def _read_passes(self, ticks: list[TickRow]) -> Iterator[Pass]:
        rows: list[tuple[int, tuple[int, ...]]] = []
        uses: dict[int, list[int]] = {}
        for tick, *_, data, used in ticks:
            rows += ((int(tick), row) for row in _split(_integers(data or b""), len(schema.PASS_COLUMNS)))
            for backward, forward in _split(_integers(used or b""), len(schema.USE_COLUMNS)):
                uses.setdefault(backward, []).append(forward)
        for tick, (index, kind, start, end, location, subject, flags, saved, gradients) in sorted(
            rows, key=lambda item: item[1][0]
        ):
            yield Pass(
                id=index,
                kind=PassKind(kind),
                tick=tick,
                start_ns=start,
                end_ns=end,
                location=self._locations.get(location),
                subject=_or_none(subject),
                flags=PassFlag(flags),
                saved_bytes=_or_none(saved),
                gradients=_or_none(gradients),
                uses=tuple(uses.get(index, ())),
            )

    def last_uses(self) -> dict[int, int]:
        """Storage -> when an op was last given it while storages were watched; large storages only."""
        if self._version < _PASSES_SINCE:
            return {}
        with _Reading(self.path):
            rows = self._rows("last_uses", len(schema.LAST_USE_COLUMNS))
            return {row[0]: row[1] for row in rows}

    def _read_parameters(self) -> Iterator[ParameterProfile]:
        if self._version < _PASSES_SINCE:
            return
        for (text,) in self._connection.execute("SELECT data FROM parameters ORDER BY id"):
            yield codec.load_parameters(text)

    def _rows(self, column: str, width: int) -> Iterator[tuple[int, ...]]:
        for (blob,) in self._connection.execute(f"SELECT {column} FROM storages ORDER BY id"):
            yield from _split(_integers(blob), width)


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """Open a recording, also one whose process was killed.

    Args:
        path: A file written by `memprof analyze` or a `Profiler`.

    Returns:
        The recording.

    Raises:
        RecordingError: There is no such file, or it is not a recording, or it is damaged.
        RecordingVersionError: It was written by a newer memprof.
    """
    file = Path(path)
    if not file.is_file():
        raise RecordingError(f"there is no recording at {file}; `memprof analyze SCRIPT` writes one")
    if not is_recording(file) or not file.stat().st_size:
        raise RecordingError(f"{file} is not a memprof recording")
    journal = read_journal(file)  # before the database, of which a run that goes on may write more meanwhile
    connection = _connect(file)
    with _Reading(file):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > schema.FORMAT_VERSION:
        connection.close()
        raise RecordingVersionError(str(file), version, schema.FORMAT_VERSION)
    try:
        return Recording(connection, file, journal)
    except RecordingError:
        connection.close()
        raise


def _connect(file: Path) -> sqlite3.Connection:
    """Connect so that a write-ahead log left by a killed process is replayed where that is possible."""
    uri = file.resolve().as_uri()
    error: Exception | None = None
    for query in ("mode=rw", "mode=ro", "mode=ro&immutable=1"):
        try:
            connection = sqlite3.connect(f"{uri}?{query}", uri=True, isolation_level=None, check_same_thread=False)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return connection
        except (sqlite3.Error, UnicodeDecodeError) as caught:  # the latter: a message that quotes damaged bytes
            error = caught
    raise RecordingError(f"{file} is damaged and cannot be read ({error})") from error


class _Reading:
    """Turns whatever a damaged file provokes into a `RecordingError`."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        damage = (sqlite3.Error, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
        if isinstance(error, damage):
            raise RecordingError(f"{self._path} is damaged and cannot be read ({error})") from error


def _table(blob: bytes, width: int) -> IntArray:
    """A packed table as an array of shape (rows, width)."""
    return np.frombuffer(blob, "<i8").reshape(-1, width).astype(np.int64, copy=False)


def _integers(blob: bytes) -> array[int]:
    values = array("q")
    values.frombytes(blob)
    return values


def _or_none(value: int) -> int | None:
    return None if value == schema.NONE else value


def _split(values: array[int], width: int) -> Iterator[tuple[int, ...]]:
    if len(values) % width:
        raise ValueError(f"a packed column has {len(values)} values, not a multiple of {width}")
    iterator = iter(values)
    return zip(*[iterator] * width, strict=True)


__all__ = ["Recording", "open_recording"]

"""Writes a recording while the run goes on."""

from __future__ import annotations

import sqlite3
import threading
from array import array
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from memprof._errors import RecordingError
from memprof.record import codec, schema
from memprof.record.census import Census
from memprof.record.events import (
    DeviceState,
    Location,
    ModuleRef,
    OutOfMemory,
    ParameterProfile,
    RoleFact,
    Sample,
    Tick,
    TickFlag,
)
from memprof.record.journal import META_KEY, SUFFIX, TickJournal, TickRow, is_being_written
from memprof.record.run_info import RunInfo

_K = TypeVar("_K")
_Statement = tuple[str, tuple[object, ...]]
_CACHE_KIB = 64
"""What SQLite may keep of the file in memory, where it would show as the program's; nothing of it is read again."""
MOST_IN_MEMORY_BYTES = 256 << 20
"""A recording that the disk has no room for must not take the memory of the run."""
_INSERT_TICK = "INSERT INTO tick VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SQL, _ROW = itemgetter(0), itemgetter(1)
"""Of a statement."""


class RecordingWriter:
    """One recording being written.

    Every call that writes a tick or ends with a commit is durable against the death of the process. Where the disk
    fails in mid-run, or the file is gone at the end, the recording moves to memory, `on_failure` is told once, and
    writing goes on. One that would take more than `MOST_IN_MEMORY_BYTES` there ends instead.

    Args:
        path: Where to write. An older recording there is replaced; any other file is left alone.
        run: Facts about the run; written again by `finish`.
        on_failure: Called with one sentence when the file can no longer be written.

    Raises:
        RecordingError: `path` cannot be written, or a file that is no recording, or that another run is writing, is in
            the way.
    """

    def __init__(self, path: Path, run: RunInfo, *, on_failure: Callable[[str], None] = lambda _: None) -> None:
        self.path = path
        self._on_failure = on_failure
        self._lock = threading.RLock()
        self._names: dict[str, int] = {}
        self._locations: dict[Location, int] = {}
        self._modules: dict[ModuleRef, int] = {}
        self._stacks: dict[tuple[tuple[int, ...], int, int, int], int] = {}
        self._pending: list[_Statement] = []
        self._connection = self._create(path)
        self._journal = self._begin_journal(path)
        self.write_run(run)

    def _create(self, path: Path) -> sqlite3.Connection:
        if path.exists():
            if not is_recording(path):
                raise RecordingError(f"{path} exists and is not a memprof recording; choose another file with -o")
            if is_being_written(path):
                raise RecordingError(f"another run is writing {path}; choose another file with -o")
        try:
            for old in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", SUFFIX))):
                old.unlink(missing_ok=True)
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {schema.FORMAT_VERSION}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
            connection.executescript(schema.TABLES)
        except (sqlite3.Error, OSError) as error:
            raise RecordingError(
                f"cannot write the recording to {path} ({error}); choose a writable place with -o"
            ) from error
        return connection

    def _begin_journal(self, path: Path) -> TickJournal | None:
        try:
            journal = TickJournal(path)
        except OSError:  # each tick is a transaction then
            return None
        self._pending.append(("INSERT INTO meta VALUES (?, ?)", (META_KEY, journal.name)))
        return journal

    # ---- small tables ------------------------------------------------------------------

    def name_id(self, text: str) -> int:
        """Id of a dtype, device or op name."""
        return self._intern(self._names, text, "INSERT INTO name VALUES (?, ?)", (text,))

    def location_id(self, location: Location) -> int:
        """Id of a source line."""
        return self._intern(self._locations, location, "INSERT INTO location VALUES (?, ?, ?, ?)", location)

    def module_id(self, module: ModuleRef) -> int:
        """Id of a module path."""
        return self._intern(self._modules, module, "INSERT INTO module VALUES (?, ?, ?)", module)

    def stack_id(
        self,
        frames: tuple[int, ...],
        location: int,
        *,
        module: int = schema.NONE,
        forward_location: int = schema.NONE,
    ) -> int:
        """Id of a call stack, and of what was made there.

        Args:
            frames: Ids of its lines, innermost first.
            location: Id of the user's innermost line among them, or `schema.NONE`.
            module: Id of the module it was made for, or `schema.NONE`.
            forward_location: Id of the line of the forward whose gradient it was made for, or `schema.NONE`.
        """
        key = (frames, location, module, forward_location)
        found = self._stacks.get(key)
        if found is None:
            row = location, array("q", frames).tobytes(), module, forward_location
            found = self._intern(self._stacks, key, "INSERT INTO stack VALUES (?, ?, ?, ?, ?)", row)
        return found

    def _intern(self, table: dict[_K, int], key: _K, sql: str, row: Iterable[object]) -> int:
        found = table.get(key)
        if found is not None:
            return found
        with self._lock:  # of two threads one gives it a number, and nobody commits meanwhile
            found = table.get(key)
            if found is None:
                found = table[key] = len(table)
                self._pending.append((sql, (found, *row)))
        return found

    # ---- events ------------------------------------------------------------------------

    def write_tick(
        self,
        tick: Tick,
        births: array[int] | None = None,
        deaths: array[int] | None = None,
        roles: Iterable[RoleFact] = (),
        *,
        samples: array[int] | None = None,
        states: Iterable[DeviceState] = (),
        passes: tuple[array[int], array[int]] | None = None,
        last_uses: array[int] | None = None,
    ) -> None:
        """Commit a finished tick with what happened to storages during it.

        Args:
            tick: The tick.
            births: Packed rows of `schema.BIRTH_COLUMNS`.
            deaths: Packed rows of `schema.DEATH_COLUMNS`.
            roles: Roles found since the last tick.
            samples: Packed rows of `schema.SAMPLE_COLUMNS` instead of `tick.samples`.
            states: Devices at the end of the tick.
            passes: Packed rows of `schema.PASS_COLUMNS` and of `schema.USE_COLUMNS`.
            last_uses: Packed rows of `schema.LAST_USE_COLUMNS`.
        """
        row: TickRow = (
            tick.index,
            tick.start_ns,
            tick.end_ns,
            int(tick.flags),
            tick.epoch,
            None if tick.call is None else self.location_id(tick.call),
            tick.forward_bytes,
            array("q", tick.consumed).tobytes() if tick.consumed else None,
            self._pack_samples(tick.samples) if samples is None else samples.tobytes(),
            passes[0].tobytes() if passes is not None and passes[0] else None,
            passes[1].tobytes() if passes is not None and passes[1] else None,
        )
        statements: list[_Statement] = [(_INSERT_TICK, row), *_of_storages(births, deaths, roles, last_uses)]
        statements.extend(("INSERT INTO device_state (data) VALUES (?)", (codec.dump(state),)) for state in states)
        if len(statements) > 1 or self._pending or not self._put_off(row):
            self._commit(statements)

    def _put_off(self, row: TickRow) -> bool:
        """Leave a tick to the journal, if there is room; returns whether it is safe there."""
        with self._lock:
            journal = self._journal
            return journal is not None and not journal.full and journal.take(row)

    def write_storages(
        self, births: array[int], deaths: array[int], roles: Iterable[RoleFact], last_uses: array[int]
    ) -> None:
        """Commit what happened to storages in a tick that goes on; see `write_tick`."""
        self._commit(_of_storages(births, deaths, roles, last_uses))

    def write_blocks(self, events: Iterable[tuple[int, bytes]]) -> None:
        """Commit what the caching allocators did in finished ticks, and mark these as known to the last event.

        Args:
            events: Ticks that follow each other, written before, each with packed rows of `schema.BLOCK_COLUMNS`.
        """
        known = list(events)
        if not known:
            return
        statements: list[_Statement] = [
            ("INSERT INTO blocks (tick, events) VALUES (?, ?)", (tick, rows)) for tick, rows in known if rows
        ]
        flagged = (int(TickFlag.BLOCKS), known[0][0], known[-1][0])
        statements.append(("UPDATE tick SET flags = flags | ? WHERE id BETWEEN ? AND ?", flagged))
        self._commit(statements)

    def write_segments(self, tick: int, segments: array[int]) -> None:
        """Commit what the caching allocators held when a tick began.

        Args:
            tick: The tick.
            segments: Packed rows of `schema.SEGMENT_COLUMNS`.
        """
        self._commit([("INSERT INTO segments (tick, data) VALUES (?, ?)", (tick, segments.tobytes()))])

    def write_parameters(self, profile: ParameterProfile) -> None:
        """Write what parameters were like after a backward, with the next commit."""
        self._pending.append(("INSERT INTO parameters VALUES (?, ?)", (profile.id, codec.dump(profile))))

    def write_oom(self, oom: OutOfMemory) -> None:
        """Commit an out-of-memory error."""
        self._commit([("INSERT INTO oom (data) VALUES (?)", (codec.dump(oom),))])

    def _pack_samples(self, samples: tuple[Sample, ...]) -> bytes:
        packed = array("q")
        for s in samples:
            reserved = schema.NONE if s.reserved_bytes is None else s.reserved_bytes
            peak = schema.NONE if s.peak_allocated_bytes is None else s.peak_allocated_bytes
            device = self._names.get(s.device)
            if device is None:
                device = self.name_id(s.device)
            operations = schema.NONE if s.operations is None else s.operations
            packed.extend((s.time_ns, s.phase, s.ends, device, s.allocated_bytes, reserved, peak, operations))
        return packed.tobytes()

    def write_census(self, census: Census) -> None:
        """Commit what outlived its iteration."""
        self._commit([("INSERT INTO census (tick, data) VALUES (?, ?)", (census.tick, codec.dump(census)))])

    def write_run(self, run: RunInfo) -> None:
        """Commit the facts about the run."""
        self._commit([("INSERT OR REPLACE INTO meta VALUES ('run', ?)", (codec.dump(run),))])

    def finish(self, run: RunInfo) -> None:
        """Write the facts about the run for the last time and fold the write-ahead log into the file."""
        if self._full:  # what there is is kept, and how the run ended is put with it
            self._full = False
            self._pending.clear()
            if self.in_memory:
                self._limit(2 * MOST_IN_MEMORY_BYTES)
        self.write_run(run)
        with self._lock:
            if not self.in_memory and not self.path.exists():
                self._move_to_memory("it has been removed")
            try:
                self._connection.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.Error:
                pass  # the log stays beside the file; readers replay it
            journal, self._journal = self._journal, None
            if journal is not None:
                journal.close(delete=True)
            if not self.in_memory:
                self._connection.close()

    @property
    def in_memory(self) -> bool:
        """Whether the disk failed and the recording lives in memory only."""
        return self._memory is not None

    @property
    def memory(self) -> sqlite3.Connection | None:
        """The in-memory database after the disk failed, else None."""
        return self._memory

    _memory: sqlite3.Connection | None = None
    _full = False
    """There is room neither on the disk nor in memory."""

    def _commit(self, statements: list[_Statement]) -> None:
        with self._lock:
            if self._full:
                return
            journal = self._journal
            waiting = 0 if journal is None else journal.waiting
            if self._pending or waiting:
                pending, self._pending = self._pending, []
                ticks = () if journal is None else journal.ticks()
                statements = [*((_INSERT_TICK, row) for row in ticks), *pending, *statements]
            try:
                self._execute(statements)
            except sqlite3.Error as error:
                if self.in_memory or self._nbytes() > MOST_IN_MEMORY_BYTES:
                    self._full = True
                    self._on_failure(
                        f"{self.path} cannot be written ({error}), and no more than {MOST_IN_MEMORY_BYTES >> 20} MiB "
                        "are kept in memory; the recording ends here"
                    )
                    return
                self._move_to_memory(str(error))
                self._execute(statements)
            except _NotWritten as interrupted:  # the journal still has its ticks
                self._pending = [*statements[waiting:], *self._pending]
                raise interrupted.by from None
            if waiting and self._journal is not None:
                self._journal.empty()

    def _execute(self, statements: list[_Statement]) -> None:
        execute = self._connection.execute
        if len(statements) == 1:
            execute(*statements[0])
            return
        execute("BEGIN")
        try:
            for sql, alike in groupby(statements, _SQL):
                self._connection.executemany(sql, map(_ROW, alike))
            execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        except BaseException as error:
            if not self._connection.in_transaction:
                raise
            execute("ROLLBACK")
            raise _NotWritten(error) from error

    def _limit(self, nbytes: int) -> None:
        (page_size,) = self._connection.execute("PRAGMA page_size").fetchone()
        self._connection.execute(f"PRAGMA max_page_count = {nbytes // page_size}")

    def _nbytes(self) -> int:
        (page_size,) = self._connection.execute("PRAGMA page_size").fetchone()
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        return int(page_size * pages)

    def _move_to_memory(self, reason: str) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:  # the file goes on telling of the ticks that the disk has no room for
            journal.close(delete=False)
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.backup(memory)
        self._connection.close()
        self._connection = self._memory = memory
        self._limit(max(MOST_IN_MEMORY_BYTES, self._nbytes()))
        self._on_failure(
            f"{self.path} can no longer be written ({reason}); recording goes on in memory and the file ends here"
        )


class _NotWritten(Exception):
    """Nothing of a transaction was written, because a signal's handler raised meanwhile (`KeyboardInterrupt`)."""

    def __init__(self, by: BaseException) -> None:
        super().__init__()
        self.by = by


def _of_storages(
    births: array[int] | None, deaths: array[int] | None, roles: Iterable[RoleFact], last_uses: array[int] | None
) -> list[_Statement]:
    statements: list[_Statement] = []
    if births or deaths or last_uses:
        packed = tuple(column.tobytes() if column else b"" for column in (births, deaths, last_uses))
        statements.append(("INSERT INTO storages (births, deaths, last_uses) VALUES (?, ?, ?)", packed))
    statements.extend(("INSERT INTO role VALUES (?, ?, ?)", (f.storage, int(f.role), f.name)) for f in roles)
    return statements


def is_recording(path: Path) -> bool:
    """Whether a file is a memprof recording (by its header) or empty.

    Source:
        The SQLite file header: bytes 0-15 magic, bytes 68-71 application id, big-endian
        (https://www.sqlite.org/fileformat2.html).
    """
    try:
        with open(path, "rb") as file:
            header = file.read(72)
    except OSError as error:
        raise RecordingError(f"cannot read {path} ({error.strerror or error})") from error
    if not header:
        return True
    return header.startswith(b"SQLite format 3\0") and header[68:72] == schema.APPLICATION_ID.to_bytes(4, "big")

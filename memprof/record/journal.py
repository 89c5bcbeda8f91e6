"""Ticks that are safe from the death of the process before they are in the database.

A transaction of SQLite touches so much code and memory that it costs a short iteration several times its own time.
One appended line does not: what is written is with the operating system and outlives the process just as well. So
ticks with which nothing else is to be written wait here, and go into the database many at a time.

The file lies beside the recording as long as the run goes on, and stays there where it is killed.
"""

from __future__ import annotations

import errno
import os
import secrets
import struct
import sys
import weakref
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from memprof.record.schema import NONE

if sys.platform != "win32":
    import fcntl

TickRow = tuple[int, int, int, int, int, int | None, int | None, bytes | None, bytes | None, bytes | None, bytes | None]
"""A row of the table `tick`."""

SUFFIX = "-ticks"
META_KEY = "journal"
"""In the table `meta`: which journal belongs to the recording."""

_MOST_TICKS = 256
_MOST_BYTES = 1 << 20
_LONGEST = 1 << 16
"""Bytes of a tick that is better written to the database at once than twice."""
_NAME_BYTES = 16
_RECORD = struct.Struct("<II")
"""Length and check sum of what follows."""
_TICK = struct.Struct("<7q4I")
"""The numbers of a tick, and the lengths of its packed columns, which follow."""


class TickJournal:
    """The journal of a recording that is being written.

    Args:
        path: The recording.

    Raises:
        OSError: No file can be made beside it.
    """

    def __init__(self, path: Path) -> None:
        self.name = secrets.token_hex(_NAME_BYTES // 2)
        """What the recording must call it, so that nobody else's is taken for it."""
        self.waiting = 0
        """Ticks that are in the file only. They are not kept in memory: that would grow from one to the next."""
        self._path = journal_of(path)
        self._nbytes = 0
        self._whole = True
        """Nothing but the ticks that wait is in the file."""
        flags = os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file = os.open(self._path, flags, 0o666)
        self._close = weakref.finalize(self, os.close, self._file)
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._file, self.name.encode())

    @property
    def full(self) -> bool:
        """Whether it is time to write the ticks to the database."""
        return self.waiting >= _MOST_TICKS or self._nbytes >= _MOST_BYTES

    def take(self, row: TickRow) -> bool:
        """Write a tick down.

        Args:
            row: It.

        Returns:
            Whether it is safe here; otherwise it must go into the database.
        """
        index, start, end, flags, epoch, call, forward_bytes, *columns = row
        blobs = [column or b"" for column in columns]
        head = _TICK.pack(
            index,
            start,
            end,
            flags,
            epoch,
            NONE if call is None else call,
            NONE if forward_bytes is None else forward_bytes,
            *map(len, blobs),
        )
        payload = b"".join((head, *blobs))
        if len(payload) > _LONGEST:
            return False
        record = _RECORD.pack(len(payload), zlib.crc32(payload)) + payload
        try:
            self._whole = self._whole and os.write(self._file, record) == len(record)
        except OSError:  # the database will say why
            self._whole = False
        if self._whole:
            self.waiting += 1
            self._nbytes += len(record)
        return self._whole

    def ticks(self) -> Iterator[TickRow]:
        """Read the ticks that wait.

        Raises:
            OSError: The file cannot be read.
        """
        left = _NAME_BYTES + self._nbytes if self.waiting else 0
        pieces = []
        os.lseek(self._file, 0, os.SEEK_SET)  # what is written goes to the end all the same
        while left and (piece := os.read(self._file, left)):
            pieces.append(piece)
            left -= len(piece)
        return _rows(b"".join(pieces))

    def empty(self) -> None:
        """The ticks are in the database now."""
        self.waiting = 0
        self._nbytes = 0
        try:
            os.ftruncate(self._file, _NAME_BYTES)
            self._whole = True
        except OSError:  # readers pass over what the database knows
            self._whole = False

    def close(self, *, delete: bool) -> None:
        """Close the file.

        Args:
            delete: The database knows all that is in it.
        """
        self._close()
        if delete:
            with suppress(OSError):
                self._path.unlink()


def journal_of(path: Path) -> Path:
    """The file beside a recording that holds its journal."""
    return path.with_name(path.name + SUFFIX)


def is_being_written(path: Path) -> bool:
    """Whether a process that is alive writes a recording: it holds the lock of its journal.

    Args:
        path: The recording.

    Returns:
        False also where the file system or the platform has no such locks.
    """
    if sys.platform == "win32":
        return False
    try:
        file = os.open(journal_of(path), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(file)
    return False


def read_journal(path: Path) -> tuple[str, tuple[TickRow, ...]]:
    """Read the journal of a recording, as far as it is sound.

    Args:
        path: The recording.

    Returns:
        Its name, "" where there is none, and its ticks in order; the database may have come to know the first of them.
    """
    try:
        data = journal_of(path).read_bytes()
    except OSError:
        return "", ()
    return data[:_NAME_BYTES].decode("ascii", "replace"), tuple(_rows(data))


def _rows(data: bytes) -> Iterator[TickRow]:
    at = _NAME_BYTES
    while at + _RECORD.size + _TICK.size <= len(data):
        nbytes, check = _RECORD.unpack_from(data, at)
        payload = data[at + _RECORD.size : at + _RECORD.size + nbytes]
        if len(payload) < max(nbytes, _TICK.size) or zlib.crc32(payload) != check:
            return  # cut off while it was being written
        index, start, end, flags, epoch, call, forward_bytes, *lengths = _TICK.unpack_from(payload)
        columns: list[bytes | None] = []
        place = _TICK.size
        for length in lengths:
            columns.append(payload[place : place + length] if length else None)
            place += length
        yield (
            index,
            start,
            end,
            flags,
            epoch,
            None if call == NONE else call,
            None if forward_bytes == NONE else forward_bytes,
            columns[0],
            columns[1],
            columns[2],
            columns[3],
        )
        at += _RECORD.size + nbytes

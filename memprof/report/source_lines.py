"""Places in source code as people read them: a short path, and the line itself where it can be read."""

from __future__ import annotations

import linecache
import os
import stat

from memprof.record.events import Location
from memprof.report.wording import escape_controls

_MAX_SOURCE_BYTES = 8 << 20
"""A larger file is not source code, and reading it would delay the report."""


def short_path(file: str, cwd: str) -> str:
    """Write a path relative to a folder where that is shorter.

    Args:
        file: Path as the recording has it; may be a pseudo name such as `<stdin>`.
        cwd: The folder to be relative to.

    Returns:
        The shorter of the two spellings, safe to print.
    """
    shortest = file
    if os.path.isabs(file):
        try:
            relative = os.path.relpath(file, cwd)
        except ValueError:  # another drive on Windows
            relative = file
        shortest = min(file, relative, key=len)
    return escape_controls(shortest)


def place(location: Location, cwd: str) -> str:
    """Write a location as editors understand it, with its function: `train.py:41 in train`.

    Args:
        location: The place.
        cwd: The folder paths are relative to.

    Returns:
        The place, safe to print.
    """
    where = f"{short_path(location.file, cwd)}:{location.line}"
    if not location.function or location.function == "<module>":
        return where
    return f"{where} in {escape_controls(location.function)}"


def source_line(location: Location) -> str | None:
    """Read the line of source at a location.

    Args:
        location: The place; its file may be gone, unreadable or no file at all.

    Returns:
        The line without indentation, safe to print, or None where it cannot be read or is blank.
    """
    if location.line < 1 or not _is_readable_source(location.file):
        return None
    linecache.checkcache(location.file)
    line = linecache.getline(location.file, location.line)
    return escape_controls(line.strip().expandtabs(4)) or None


def _is_readable_source(file: str) -> bool:
    if file.startswith("<"):
        return file in linecache.cache  # a notebook cell
    try:
        facts = os.stat(file)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size <= _MAX_SOURCE_BYTES

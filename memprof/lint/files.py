"""Finds and reads what is to be checked: files, folders, notebooks, standard input."""

from __future__ import annotations

import io
import os
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from memprof._errors import UsageError
from memprof.lint.finding import Unreadable
from memprof.lint.notebooks import read_notebook

_SUFFIXES = (".py", ".ipynb")

DEFAULT_EXCLUDE = (
    ".*",
    "__pycache__",
    "__pypackages__",
    "build",
    "dist",
    "node_modules",
    "site-packages",
    "venv",
)
"""Names of folders that are not entered unless they are given."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The text of one file.

    Attributes:
        path: As it is shown.
        text: Python source; of a notebook, its code cells one after the other.
        cells: For a notebook, number of each code cell and the line of `text` it begins at.
        broken: For a notebook, the first cell that could not be parsed, if there is one; `text` has blank lines in
            place of each.
    """

    path: str
    text: str
    cells: tuple[tuple[int, int], ...] = ()
    broken: tuple[Unreadable, ...] = ()

    def place(self, line: int) -> tuple[int, int | None]:
        """Line within its cell, and the cell; the line itself and None for a script."""
        found = [(number, start) for number, start in self.cells if start <= line]
        return (line - found[-1][1] + 1, found[-1][0]) if found else (line, None)


def find_files(
    paths: Sequence[str | os.PathLike[str]], exclude: Iterable[str], root: Path, *, force: bool = False
) -> list[Path]:
    """Files below some paths, each once, in order of their names below each path.

    Args:
        paths: Files and folders; a file that is named is taken whatever it is called, unless `force`.
        exclude: Patterns of names, or of paths below `root`, that are left out.
        root: What patterns of paths are relative to.
        force: Leave out what is excluded even where it is named.

    Raises:
        UsageError: There is no such path.
    """
    patterns = tuple(exclude)
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if force and path.exists() and _is_excluded(path, patterns, root):
            continue
        if path.is_dir():
            found.update(dict.fromkeys(_below(path, patterns, root)))
        elif path.exists():
            found[path] = None
        else:
            raise UsageError(f"there is no file or folder {os.fspath(given)!r} to check")
    return list(found)


def _is_excluded(path: Path, patterns: tuple[str, ...], root: Path) -> bool:
    """Whether a path, or a folder it is in below the root, is left out."""
    full = path.resolve()
    if not full.is_relative_to(root):
        return matches(path, patterns, root)
    parts = [part for part in (full, *full.parents) if part.is_relative_to(root) and part != root]
    return any(
        matches(part, patterns, root) or (part != full and any(fnmatch(part.name, one) for one in DEFAULT_EXCLUDE))
        for part in parts
    )


def _below(folder: Path, patterns: tuple[str, ...], root: Path) -> Iterator[Path]:
    for current, folders, files in os.walk(folder):
        here = Path(current)
        folders[:] = sorted(
            name
            for name in folders
            if not matches(here / name, patterns, root) and not any(fnmatch(name, one) for one in DEFAULT_EXCLUDE)
        )
        for name in sorted(files):
            if name.endswith(_SUFFIXES) and not matches(here / name, patterns, root):
                yield here / name


def matches(path: Path, patterns: Iterable[str], root: Path) -> bool:
    """Whether a path, its name, or its path below a root is one of some patterns."""
    full = path.resolve()
    below = full.relative_to(root).as_posix() if full.is_relative_to(root) else full.as_posix()
    return any(
        fnmatch(path.name, pattern) or fnmatch(below, pattern) or fnmatch(below, f"{pattern.rstrip('/')}/*")
        for pattern in patterns
    )


def read(path: Path) -> SourceFile | Unreadable:
    """Read a file, in the encoding it declares."""
    try:
        if path.suffix == ".ipynb":
            return _notebook(os.fspath(path), path.read_bytes())
        with tokenize.open(path) as file:
            return SourceFile(os.fspath(path), file.read())
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Unreadable(os.fspath(path), 1, f"cannot be read: {reason}")


def from_bytes(data: bytes, path: str) -> SourceFile | Unreadable:
    """What standard input holds, under the name of a file."""
    try:
        if path.endswith(".ipynb"):
            return _notebook(path, data)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = io.TextIOWrapper(io.BytesIO(data), encoding).read()
        return SourceFile(path, text)
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        return Unreadable(path, 1, f"cannot be read: {error}")


def _notebook(path: str, data: bytes) -> SourceFile | Unreadable:
    found = read_notebook(data)
    broken: tuple[Unreadable, ...] = ()
    if found.broken:
        cell = found.broken[0]
        several = f", and {len(found.broken) - 1} more" if len(found.broken) > 1 else ""
        reason = f"cannot be parsed: cell {cell.number}: {cell.reason}{several}; the other cells were checked"
        broken = (Unreadable(path, cell.line, reason),)
    return SourceFile(path, found.text, found.starts, broken)

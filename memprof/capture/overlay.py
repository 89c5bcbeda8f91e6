"""Runs files with another text than theirs, at their own path: `__file__`, imports and neighbours stay as they are."""

from __future__ import annotations

import linecache
import os
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

_texts: dict[str, bytes] = {}


def overlaid_text(path: str | os.PathLike[str]) -> bytes | None:
    """The text to use in place of a file's own; None for its own.

    Args:
        path: Any spelling of the file's path.
    """
    return _texts.get(os.path.realpath(path)) if _texts else None


def show_lines(path: str) -> None:
    """Make `linecache` show the text given for a file that is known by a certain spelling of its path."""
    text = overlaid_text(path)
    if text is not None:
        lines = text.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[path] = (len(text), None, lines, path)  # without a time it is never checked against the file


class _Loader(SourceFileLoader):
    """Compiles the text given; no bytecode is read or written, it would outlive the run."""

    def get_data(self, path: str) -> bytes:
        text = overlaid_text(path)
        return super().get_data(path) if text is None else text

    def get_code(self, fullname: str) -> types.CodeType | None:
        path = self.get_filename(fullname)
        show_lines(path)
        code: types.CodeType = self.source_to_code(self.get_data(path), path)
        return code


class _Finder(MetaPathFinder):
    """Finds what Python would find, and has it loaded with the text given."""

    def __init__(self, paths: Sequence[str]) -> None:
        stems = {os.path.splitext(os.path.basename(path))[0] for path in paths}
        folders = {os.path.basename(os.path.dirname(path)) for path in paths}
        self._names = stems | folders

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.rpartition(".")[2] not in self._names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or overlaid_text(spec.origin) is None:
            return None
        spec.loader = _Loader(fullname, spec.origin)
        spec.cached = None
        return spec


@contextmanager
def overlaid(texts: Mapping[str, bytes]) -> Iterator[None]:
    """Put texts in place of files, for scripts, modules and source lines, until the block ends.

    Args:
        texts: Path -> what to run in place of the file there, encoded as Python source.
    """
    mapped = {os.path.realpath(path): text for path, text in texts.items()}
    finder = _Finder(list(mapped))
    saved = dict(_texts)
    _texts.update(mapped)
    sys.meta_path.insert(0, finder)
    for path in mapped:
        show_lines(path)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _texts.clear()
        _texts.update(saved)
        for path in [path for path in linecache.cache if os.path.realpath(path) in mapped]:
            linecache.cache.pop(path, None)

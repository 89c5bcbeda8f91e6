"""Changes of a file's text.

An edit is a set of changes, each a span of the file with the text to put there. Nothing outside the spans is written
anew, so formatting and comments stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memprof.advise.edits.source import SourceFile

BREAKS = re.compile(rb"\r\n|\r|\n")
"""Line breaks."""


class CannotEdit(Exception):
    """An edit cannot be made safely; the message says why, as the end of "not edited: "."""


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """Text to put in place of a span of a file.

    Attributes:
        start: Where the span begins, in bytes of the file as UTF-8 without byte order mark.
        end: Where it ends; `start` for a mere insertion.
        text: What to put there.
    """

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Edited:
    """A file after changes.

    Attributes:
        text: Its text in UTF-8.
        line: Line of the file as it was -> where that line is now.
    """

    text: bytes
    line: Mapping[int, int]


def apply(source: SourceFile, changes: Iterable[Change]) -> Edited:
    """Make changes in a file.

    Args:
        source: The file.
        changes: In any order; the same change twice is made once.

    Returns:
        The changed text, and where its lines went.

    Raises:
        CannotEdit: Two changes touch the same text, or the result is no Python.
    """
    result = bytearray()
    at = 0
    ordered = _ordered(changes)
    for change in ordered:
        if change.start < at:
            raise CannotEdit("two changes touch the same text")
        result += source.text[at : change.start]
        result += change.text.encode("utf-8")
        at = change.end
    result += source.text[at:]
    text = bytes(result)
    try:
        compile(source.encoded(text), source.path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise CannotEdit(f"the edited file would not compile: {error}") from error
    return Edited(text, _moved_lines(source, ordered))


def _moved_lines(source: SourceFile, ordered: Sequence[Change]) -> dict[int, int]:
    moved, added, following = {}, 0, 0
    for line in range(1, source.line_count + 1):
        start, end = source.line_span(line, line)
        row = source.text[start:end]
        begin = start + len(row) - len(row.lstrip())
        while following < len(ordered) and ordered[following].start <= begin:
            change = ordered[following]
            added += len(BREAKS.findall(change.text.encode("utf-8")))
            added -= len(BREAKS.findall(source.text[change.start : change.end]))
            following += 1
        moved[line] = line + added
    return moved


def _ordered(changes: Iterable[Change]) -> list[Change]:
    """By place; of insertions at one place whole lines come first: a header, then the indentation of what follows."""
    unique = dict.fromkeys(changes)
    order = {change: index for index, change in enumerate(unique)}
    return sorted(unique, key=lambda change: (change.start, change.end, not change.text.endswith("\n"), order[change]))


__all__ = ["BREAKS", "CannotEdit", "Change", "Edited", "apply"]

"""The Python in a notebook: its code cells one after the other, without what only IPython understands."""

from __future__ import annotations

import ast
import json
import re
import warnings
from dataclasses import dataclass

_ASSIGNED = re.compile(r"(?P<target>[\w.,\s\[\]]*?\w\]?\s*=)\s*[!%](?!=)\s*\w.*")
"""`files = !ls`, `timed = %timeit -o f()`."""

_PYTHON_CELL = ("%%time", "%%timeit", "%%capture", "%%prun", "%%memit", "%%python3")
"""Cell magics below which there is Python, run in the notebook."""

_AUTOMAGIC = re.compile(r"(?:cat|cd|conda|cp|ls|man|mkdir|mv|pip3?|pwd|rm|rmdir|wget)\s+\S")
"""Commands that work without `%` or `!`.

Source:
    `%alias` and `%automagic`, IPython 8.
"""


@dataclass(frozen=True, slots=True)
class BrokenCell:
    """A cell that is no Python: its number, the line in it, and why."""

    number: int
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class NotebookSource:
    """What a notebook holds.

    Attributes:
        text: Python source.
        starts: Number of each code cell, from 1, and the line of `text` it begins at.
        broken: Cells that could not be parsed, blank in `text`.
    """

    text: str
    starts: tuple[tuple[int, int], ...]
    broken: tuple[BrokenCell, ...]


def read_notebook(data: bytes) -> NotebookSource:
    """Take the Python out of a notebook.

    Args:
        data: The file.

    Raises:
        ValueError: It is no notebook of format 4.
    """
    notebook = json.loads(data)
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ValueError("no notebook of format 4")
    lines: list[str] = []
    starts: list[tuple[int, int]] = []
    broken: list[BrokenCell] = []
    for number, cell in enumerate(cells, start=1):
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        text = "".join(map(str, source)) if isinstance(source, list) else str(source)
        starts.append((number, len(lines) + 1))
        own = text.splitlines() or [""]
        error = _error_in(own)
        if error is not None:
            own = _python_only(own)
            error = _error_in(own)
        if error is not None:
            broken.append(BrokenCell(number, *error))
        lines.extend(own if error is None else [""] * len(own))
    return NotebookSource("\n".join(lines) + "\n", tuple(starts), tuple(broken))


def _error_in(lines: list[str]) -> tuple[int, str] | None:
    """Line and reason for which lines are no Python; None where they are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse("\n".join(lines) + "\n")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return getattr(error, "lineno", None) or 1, str(getattr(error, "msg", None) or error)
    return None


def _python_only(lines: list[str]) -> list[str]:
    """A cell's lines with IPython's own put out of the way; their number stays."""
    first = next((line for line in lines if line.strip()), "")
    if first.startswith("%%") and first.split()[0] not in _PYTHON_CELL:
        return ["" for _ in lines]
    margin = first[: len(first) - len(first.lstrip())]
    result: list[str] = []
    continued = False
    for line in lines:
        line = line.removeprefix(margin) if margin else line
        bare = line.lstrip()
        assigned = _ASSIGNED.fullmatch(line)
        if continued:
            result.append("")
            continued = line.endswith("\\")
        elif assigned is not None:
            result.append(f"{assigned['target']} None")
            continued = line.endswith("\\")
        elif _is_ipython(bare):
            result.append(f"{line[: len(line) - len(bare)]}pass")
            continued = line.endswith("\\")
        else:
            result.append(line)
    return result


def _is_ipython(bare: str) -> bool:
    """Whether a line, without its margin, is a magic, a command of the shell, or a question."""
    if bare.startswith(("%", "!", "?")) or (bare.rstrip().endswith("?") and "#" not in bare):
        return True
    return _AUTOMAGIC.match(bare) is not None and _error_in([bare]) is not None

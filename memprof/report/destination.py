"""Writing a finished report where the user asked for it."""

from __future__ import annotations

import os
from pathlib import Path

from memprof._errors import OutputError

PLOT_FORMATS = ("png", "svg", "pdf")
"""What a plot can be written as; a file's suffix chooses."""


def write_output(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a report to a file.

    The report is rendered before this is called, so a failure to render never costs the user an
    older file of that name.

    Args:
        path: Where to write; an existing file is replaced.
        content: The whole report.

    Returns:
        The path written.

    Raises:
        OutputError: The file cannot be written.
    """
    target = Path(path)
    existed = os.path.exists(target)
    try:
        target.write_bytes(content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if not existed:
            _remove_partial(target)
        raise OutputError(f"cannot write {str(target)!r}: {reason}. {_next_step(target)}") from error
    return target


def _remove_partial(target: Path) -> None:
    try:
        target.unlink(missing_ok=True)
    except (OSError, ValueError):
        return


def _next_step(target: Path) -> str:
    if os.path.isdir(target):
        return "It is a folder: add a file name."
    if not os.path.exists(target.parent):
        return f"Create the folder {str(target.parent)!r} first or choose another path."
    return "Choose a path in a folder that can be written and has space left."

"""Edited files written over the originals, only where these can be had back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from memprof._errors import OutputError
from memprof.advise.edits.plan import EditedFiles


def check_may_write(path: str, *, backup: bool) -> None:
    """Refuse to write a file that could not be had back.

    Args:
        path: The file.
        backup: A copy will be kept; otherwise git must have the file as it is.

    Raises:
        OutputError: The file has changes that git does not know, or a backup is in the way.
    """
    if not os.access(path, os.W_OK):
        raise OutputError(f"cannot write {path!r}: permission denied")
    if backup:
        if os.path.exists(f"{path}.orig"):
            raise OutputError(f"cannot back {path!r} up: {path}.orig exists; move it away first")
        return
    folder, name = os.path.split(path)
    try:
        known = subprocess.run(
            ["git", "-C", folder, "ls-files", "--error-unmatch", "--", name], capture_output=True, check=False
        )
        changed = subprocess.run(
            ["git", "-C", folder, "status", "--porcelain", "--", name], capture_output=True, check=False
        )
    except OSError as error:
        raise OutputError(f"cannot ask git about {path!r} ({error}); use --backup") from error
    if known.returncode or changed.returncode:
        raise OutputError(f"will not write {path!r}: it is not in git; commit it, or keep a copy with --backup")
    if changed.stdout.strip():
        raise OutputError(f"will not write {path!r}: it has changes that are not committed; commit, or use --backup")


def write_files(edited: EditedFiles, *, backup: bool) -> tuple[str, ...]:
    """Write edited files, all or none of them as far as that can be told beforehand.

    Args:
        edited: The files.
        backup: Keep each as `FILE.orig`.

    Returns:
        The paths that were written.

    Raises:
        OutputError: A file could not be had back, has changed since it was read, or cannot be written.
    """
    for path, file in edited.files.items():
        check_may_write(path, backup=backup)
        if Path(path).read_bytes() != file.original.encoded(file.original.text):
            raise OutputError(f"will not write {path!r}: it has changed while the edits were tried; run again")
    for path, text in edited.texts.items():
        if backup:
            Path(f"{path}.orig").write_bytes(Path(path).read_bytes())
        try:
            Path(path).write_bytes(text)
        except OSError as error:
            raise OutputError(f"cannot write {path!r}: {error.strerror or error}") from error
    return tuple(edited.files)


__all__ = ["check_may_write", "write_files"]

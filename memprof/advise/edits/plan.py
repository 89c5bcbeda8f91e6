"""Which edits a finding asks for, and files with several of them made."""

from __future__ import annotations

import difflib
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from memprof.advise.edits import Recipe, recipes_for
from memprof.advise.edits.changes import CannotEdit, apply
from memprof.advise.edits.problem import Problem, problems_of
from memprof.advise.edits.source import SourceFile
from memprof.detect.finding import Finding, Remedy


@dataclass(frozen=True)
class Candidate:
    """A recipe for a remedy of a finding."""

    finding: Finding
    remedy: Remedy
    problem: Problem
    recipe: Recipe


@dataclass(frozen=True)
class EditedFile:
    """A file with edits made."""

    original: SourceFile
    edited: SourceFile
    line: dict[int, int] = field(default_factory=dict)
    """Line of the original -> where it is now."""

    def diff(self, name: str) -> list[str]:
        """Unified diff, its lines without line breaks.

        Args:
            name: What to call the file.
        """
        before, after = (source.text.decode("utf-8").splitlines() for source in (self.original, self.edited))
        return list(difflib.unified_diff(before, after, name, name, lineterm=""))


@dataclass(frozen=True)
class EditedFiles:
    """The files that some edits concern, with these made."""

    files: dict[str, EditedFile] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, bytes]:
        """Path -> the edited text as it is to be written."""
        return {path: file.original.encoded(file.edited.text) for path, file in self.files.items()}

    def original_line(self, path: str, line: int) -> int | None:
        """The line of the original that is now at a line; None for a line that an edit put in."""
        file = self.files.get(path)
        if file is None:
            return line
        return next((old for old, new in file.line.items() if new == line), None)


class EditError(CannotEdit):
    """One of several edits cannot be made."""

    def __init__(self, candidate: Candidate, reason: str) -> None:
        self.candidate = candidate
        super().__init__(reason)


def candidates_of(finding: Finding) -> tuple[Candidate, ...]:
    """All edits that would mend a finding, in the order of its remedies.

    Args:
        finding: As it was diagnosed; the remedy to prefer comes first.

    Returns:
        () where no remedy is one that an edit can carry out.
    """
    return tuple(
        Candidate(finding, remedy, problem, recipe)
        for remedy, problem in zip(finding.remedies, problems_of(finding), strict=False)
        for recipe in recipes_for(finding.code, remedy.slug)
    )


def edit(candidates: Sequence[Candidate]) -> EditedFiles:
    """Make edits one after another, each in the file as those before have left it.

    Args:
        candidates: One for each finding.

    Returns:
        The files; a file that needs no change is left out.

    Raises:
        EditError: One of the edits cannot be made.
    """
    files: dict[str, EditedFile] = {}
    for candidate in candidates:
        path = os.path.realpath(candidate.problem.file)
        try:
            if path not in files:
                original = _read(path)
                files[path] = EditedFile(original, original)
            files[path] = _edited(files[path], candidate)
        except CannotEdit as error:
            raise EditError(candidate, str(error)) from error
    return EditedFiles({path: file for path, file in files.items() if file.edited is not file.original})


def _edited(file: EditedFile, candidate: Candidate) -> EditedFile:
    problem = candidate.problem.moved(file.line)
    changes = candidate.recipe.make(file.edited, problem)
    if not changes:
        return file
    result = apply(file.edited, changes)
    lines = file.line or {line: line for line in range(1, file.original.line_count + 1)}
    moved = {old: result.line.get(now, now) for old, now in lines.items()}
    return EditedFile(file.original, file.edited.with_text(result.text), moved)


def _read(path: str) -> SourceFile:
    if _is_installed(path):
        raise CannotEdit(f"{path} belongs to an installed package")
    return SourceFile.read(path)


@lru_cache(maxsize=1)
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(os.path.realpath(paths[name]) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_installed(path: str) -> bool:
    return path.startswith(_installed_folders()) or f"{os.sep}site-packages{os.sep}" in path


__all__ = ["Candidate", "EditError", "EditedFile", "EditedFiles", "candidates_of", "edit"]

"""Edits for what the static check found, shown and not made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memprof.advise.edits.changes import CannotEdit
from memprof.advise.edits.plan import Candidate, EditedFiles, candidates_of, edit
from memprof.detect.finding import Finding, Kind, Remedy, Severity
from memprof.lint import LintFinding
from memprof.model.memory import Source
from memprof.record.events import Location


@dataclass(frozen=True, slots=True)
class Proposed:
    """Edits for findings.

    Attributes:
        diffs: A unified diff for each file, as `patch -p0` takes it.
        mended: How many findings have an edit.
    """

    diffs: tuple[str, ...]
    mended: int


def propose(findings: Sequence[LintFinding]) -> Proposed:
    """Find edits for findings, those of a file one after another, each beside the ones before.

    Args:
        findings: As the check gives them. Cells of notebooks have none, and neither has what must compute something
            else afterwards.
    """
    by_file: dict[str, list[LintFinding]] = {}
    for finding in findings:
        if finding.cell is None:
            by_file.setdefault(finding.file, []).append(finding)
    diffs: list[str] = []
    mended = 0
    for name, found in by_file.items():
        accepted: list[Candidate] = []
        files = EditedFiles()
        for finding in found:
            for candidate in candidates_of(_diagnosed(finding)):
                recipe = candidate.recipe
                if recipe.only_after or recipe.changes_results:
                    continue  # a run has to show first what other edits fail with, and what results become
                try:
                    files = edit([*accepted, candidate])
                except CannotEdit:
                    continue
                accepted.append(candidate)
                break
        mended += len(accepted)
        diffs += ["".join(f"{row}\n" for row in file.diff(name)) for file in files.files.values()]
    return Proposed(tuple(diffs), mended)


def _diagnosed(finding: LintFinding) -> Finding:
    """What the source shows as if a run had shown it: its sizes are not known."""
    return Finding(
        code=finding.code,
        name=finding.name,
        kind=Kind.LEAK if finding.code.startswith("MP1") else Kind.WASTE,
        severity=Severity.INFO,
        location=Location(finding.file, finding.line, ""),
        device="",
        bytes=None,
        bytes_per_iteration=None,
        source=Source.ESTIMATED,
        message=finding.message,
        holder=None,
        remedies=(Remedy(finding.remedy, ""),),
    )


__all__ = ["Proposed", "propose"]

"""Edits and what they did, for the terminal and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from memprof.advise.trial import Results
from memprof.advise.verify import Outcome, Status
from memprof.model.memory import Source
from memprof.report.page import Page
from memprof.report.source_lines import short_path
from memprof.report.wording import counted, duration, per_iteration, size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from memprof.advise.trial import Trial
    from memprof.advise.verify import Fix

SCHEMA_ID = "memprof.fix/1"

_STATUS_STYLES = {
    Status.VERIFIED: "bold green",
    Status.UNVERIFIED: "bold yellow",
    Status.REJECTED: "bold red",
    Status.NO_EDIT: "bold",
}


def fix_page(fix: Fix, console: Console, cwd: str, written: Sequence[str]) -> RenderableType:
    """Lay out findings, each with its edit, and what all of them together changed.

    Args:
        fix: What was found.
        console: Where it goes.
        cwd: Folder that paths are shown relative to.
        written: Files that were written.
    """
    from rich.console import Group

    page = Page.of(console, cwd)
    return Group(*_blocks(fix, page, written))


def _blocks(fix: Fix, page: Page, written: Sequence[str]) -> Iterator[RenderableType]:
    if not fix.outcomes:
        yield page.text("nothing to fix was found", "bold green")
        return
    shown: set[tuple[str, ...]] = set()
    for outcome in fix.outcomes:
        yield from _outcome(outcome, page, shown)
        yield ""
    if fix.before is not None and fix.after is not None:
        yield page.heading("The script as it is and with all edits")
        yield page.facts(list(_comparison(fix.before, fix.after, page)), indent=2)
        yield ""
    yield page.text(_summary(fix, page, written), "bold")


def _outcome(outcome: Outcome, page: Page, shown: set[tuple[str, ...]]) -> Iterator[RenderableType]:
    finding = outcome.finding
    yield page.text(f"{finding.code} {finding.severity.value}: {finding.message}", "bold")
    facts = [("edit", page.text(_status(outcome), _STATUS_STYLES[outcome.status]))]
    if outcome.note:
        facts.append(("note", page.text(outcome.note)))
    for attempt in outcome.attempts:
        did = "tried" if attempt.tried else "not made"
        facts.append((did, page.text(f"{attempt.slug}: {attempt.reason}")))
    yield page.facts(facts, indent=4)
    lines = _diff(outcome, page.cwd)
    if lines and tuple(lines) in shown:
        yield page.text("    the edit is one that is shown above")
        return
    shown.add(tuple(lines))
    for line in lines:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "") if line[:3] not in ("+++", "---") else "bold"
        text = page.text(f"    {line}", style)
        text.no_wrap, text.overflow = True, "ignore"
        yield text


def _status(outcome: Outcome) -> str:
    slug = "" if outcome.candidate is None else outcome.candidate.remedy.slug
    if outcome.status is Status.VERIFIED:
        results = (outcome.results or Results.IDENTICAL).value
        if outcome.candidate is None:
            return f"none needed, verified: the script was run without one; results {results}"
        return f"{slug}, verified: the script was run with it; results {results}"
    if outcome.status is Status.UNVERIFIED:
        return f"{slug}, not verified: nobody has run the script with it"
    if outcome.status is Status.REJECTED:
        return "none that passed when it was tried"
    return "none: no remedy of this finding is one that can be written for you"


def _diff(outcome: Outcome, cwd: str) -> list[str]:
    return [line for path, file in outcome.alone.files.items() for line in file.diff(short_path(path, cwd))]


def _comparison(before: Trial, after: Trial, page: Page) -> Iterator[tuple[str, Any]]:
    peaks = [
        size(trial.peak_bytes, None if trial.peak_source is None else Source(trial.peak_source))
        for trial in (before, after)
    ]
    yield f"peak on {before.device}", page.text(" -> ".join(peaks))
    if before.bytes_per_iteration is not None and after.bytes_per_iteration is not None:
        grown = [per_iteration(before.bytes_per_iteration), per_iteration(after.bytes_per_iteration)]
        yield "growth", page.text(" -> ".join(grown))
    if before.iteration_ns is not None and after.iteration_ns is not None:
        yield "iteration", page.text(f"{duration(before.iteration_ns)} -> {duration(after.iteration_ns)} (median)")


def _summary(fix: Fix, page: Page, written: Sequence[str]) -> str:
    count = {status: sum(outcome.status is status for outcome in fix.outcomes) for status in Status}
    total = counted(len(fix.outcomes), "finding")
    parts = [f"{number} {status.value}" for status, number in count.items() if number]
    text = f"{total}: {', '.join(parts)}"
    if fix.runs:
        text += f"; {counted(fix.runs, 'run')} of the script"
    if written:
        return f"{text}; written: {', '.join(short_path(path, page.cwd) for path in written)}"
    return f"{text}; `memprof fix --apply` writes them" if fix.edited.files else text


def fix_text(fix: Fix, name: str, written: Sequence[str]) -> str:
    """JSON; sizes in bytes, times in nanoseconds; an unknown figure is null.

    Args:
        fix: What was found.
        name: The script.
        written: Files that were written.
    """
    cwd = os.getcwd()
    document = {
        "schema": SCHEMA_ID,
        "script": name,
        "complete": fix.complete,
        "runs": fix.runs or None,
        "before": _trial(fix.before),
        "after": _trial(fix.after),
        "findings": [_finding(outcome, cwd) for outcome in fix.outcomes],
        "files": [
            {"path": path, "written": path in written, "diff": "\n".join(file.diff(short_path(path, cwd)))}
            for path, file in fix.edited.files.items()
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _trial(trial: Trial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    return {
        "exit_status": trial.exit_status,
        "device": trial.device,
        "peak_bytes": trial.peak_bytes,
        "peak_source": trial.peak_source,
        "bytes_per_iteration": trial.bytes_per_iteration,
        "growth_source": trial.growth_source,
        "iteration_ns": trial.iteration_ns,
        "backwards": len(trial.losses),
    }


def _finding(outcome: Outcome, cwd: str) -> dict[str, Any]:
    finding = outcome.finding
    where = finding.location
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "location": None if where is None else {"file": where.file, "line": where.line, "function": where.function},
        "message": finding.message,
        "status": outcome.status.value,
        "remedy": None if outcome.candidate is None else outcome.candidate.remedy.slug,
        "results": None if outcome.results is None else outcome.results.value,
        "note": outcome.note or None,
        "attempts": [
            {"remedy": attempt.slug, "tried": attempt.tried, "reason": attempt.reason} for attempt in outcome.attempts
        ],
        "diff": "\n".join(_diff(outcome, cwd)) or None,
    }


__all__ = ["SCHEMA_ID", "fix_page", "fix_text"]

"""The tools that are scored, each as a function from scripts to what it reports of them."""

from __future__ import annotations

import importlib
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.corpus.labels import Script
from tests.corpus.runner import Run, Runner


@dataclass(frozen=True, slots=True)
class Reported:
    """A finding as a tool reports it.

    Attributes:
        code: Code of the rule.
        line: Line of the script; None where it points elsewhere.
        remedy: Slug of the first remedy, or None.
        harmless: Says where the peak comes from, which may be said of any script.
        message: What it says.
        file: Name of the file beside the script that `line` is in; '' for the script itself.
    """

    code: str
    line: int | None
    remedy: str | None = None
    harmless: bool = False
    message: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool said of one script; `exit_status` is the script's, where the tool runs it."""

    findings: tuple[Reported, ...] = ()
    seconds: float = 0.0
    exit_status: int | None = None
    failure: str = ""
    stderr: str = ""


def analyze(scripts: Sequence[Script], options: Namespace) -> Iterable[Result]:
    """`memprof analyze`."""
    with Runner(jobs=min(options.jobs, len(scripts)), device=options.device, level=options.level) as runner:
        for script, run in zip(scripts, runner.map(runner.analyze, scripts), strict=True):
            yield as_result(script, run)


def as_result(script: Script, run: Run) -> Result:
    """What a run under `memprof analyze` says of its script."""
    findings = tuple(_reported(script, finding) for finding in run.findings)
    own_trouble = next((note for note in run.notes if "problem of its own" in note), "")
    return Result(findings, run.seconds, run.exit_status, run.failure or own_trouble, run.stderr)


def _reported(script: Script, finding: Mapping[str, Any]) -> Reported:
    place, remedies = finding["location"], finding["remedies"]
    file = _file_of(script, place["file"]) if place is not None else None
    return Reported(
        code=finding["code"],
        line=place["line"] if file is not None else None,
        file=file or "",
        remedy=remedies[0]["slug"] if remedies else None,
        harmless=finding["kind"] == "pressure" and finding["severity"] == "info",
        message=finding["message"],
    )


def _file_of(script: Script, path: str) -> str | None:
    """Which file of the script's a path is, as in `Reported.file`; None where it is none of them."""
    found = next((file for file in script.files if file.resolve() == Path(path).resolve()), None)
    return None if found is None else "" if found == script.path else found.name


def lint(scripts: Sequence[Script], options: Namespace) -> Iterable[Result]:
    """`memprof lint`, one program at a time."""
    checker: Any = importlib.import_module("memprof.lint")
    for script in scripts:
        start = time.monotonic()
        found = checker.lint_paths(script.files)
        yield Result(
            tuple(
                Reported(
                    item.code, item.line, item.remedy, message=item.message, file=_file_of(script, item.file) or ""
                )
                for item in found
            ),
            time.monotonic() - start,
        )


Tool = Callable[[Sequence[Script], Namespace], Iterable[Result]]

TOOLS: Mapping[str, Tool] = {"analyze": analyze, "lint": lint}
"""Name -> tool, of our own."""

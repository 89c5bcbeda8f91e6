"""Runs of a script that `memprof fix` compares, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memprof._errors import UsageError

if TYPE_CHECKING:
    from memprof.advise.trial import Trial
    from memprof.detect.finding import Finding

_PATIENCE = 5
"""A run with edits may take so many times as long as the one without, and `_GRACE_S` more."""
_GRACE_S = 60
_LATE = 124


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    output: str
    errors: str
    status: int
    late: bool = False
    """It was killed when its time was up."""


class Trials:
    """Runs the script in processes of their own.

    Args:
        order: What `memprof.cli.trial` needs to know of every run.
        folder: For the files of the runs.
        name: What to call the script.
        told: Takes a line of progress after each run.
        start: Runs `memprof.cli.trial` on a file with an order, within so many seconds.
    """

    def __init__(
        self,
        order: Mapping[str, Any],
        folder: Path,
        name: str,
        *,
        told: Callable[[str], None] = lambda _: None,
        start: Callable[[Path, float | None], Ended] | None = None,
    ) -> None:
        self._told = told
        self._start = start or _in_a_process
        self._order = order
        self._folder = folder
        self._name = name
        self._count = 0
        self._limit_s: float | None = None

    def findings(self) -> list[Finding]:
        """What the first run found."""
        from memprof.advise.diagnosis import diagnose
        from memprof.record.reader import open_recording

        with open_recording(self._folder / "run1" / "run.memprof") as recording:
            return list(diagnose(recording).findings)

    def run(self, texts: Mapping[str, bytes]) -> Trial:
        """Run with texts in place of files.

        Raises:
            UsageError: The process ended without an answer.
        """
        self._count += 1
        folder = self._folder / f"run{self._count}"
        folder.mkdir()
        files = {}
        for number, (path, text) in enumerate(texts.items()):
            files[path] = str(folder / f"text{number}")
            Path(files[path]).write_bytes(text)
        answer = folder / "answer.json"
        order = {**self._order, "texts": files, "answer": str(answer), "recording": str(folder / "run.memprof")}
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        how = "with edits" if texts else "as it is"
        begin = time.perf_counter()
        ended = self._start(folder / "order.json", self._limit_s)
        seconds = time.perf_counter() - begin
        self._told(f"memprof: run {self._count}, {self._name} {how}: {seconds:.1f} s")
        if ended.late:
            return _trial({}, ended.output, _LATE, f"took longer than {self._limit_s:.0f} s")
        if self._limit_s is None:
            self._limit_s = _PATIENCE * seconds + _GRACE_S
        if not answer.exists():
            said = [f"exit status {ended.status}", *ended.errors.strip().splitlines()][-1]
            if not texts:
                raise UsageError(f"{self._name} could not be run under memprof: {said}")
            return _trial({}, ended.output, ended.status or 1, said)
        found = json.loads(answer.read_text(encoding="utf-8"))
        return _trial(found, ended.output, found["exit_status"], found["exception"])


def _in_a_process(order: Path, limit_s: float | None) -> Ended:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "memprof.cli.trial", str(order)],
            env={"PYTHONHASHSEED": "0", **os.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        return Ended(_text(error.stdout), _text(error.stderr), _LATE, late=True)
    return Ended(_text(done.stdout), _text(done.stderr), done.returncode)


def _text(printed: bytes | None) -> str:
    return (printed or b"").decode("utf-8", "replace")


def _trial(found: Mapping[str, Any], printed: str, status: int, exception: str | None) -> Trial:
    from memprof.advise.trial import SeenFinding, Trial

    return Trial(
        exit_status=status,
        exception=exception,
        losses=tuple(found.get("losses", ())),
        output=printed,
        device=found.get("device"),
        peak_bytes=found.get("peak_bytes"),
        peak_source=found.get("peak_source"),
        bytes_per_iteration=found.get("bytes_per_iteration"),
        growth_source=found.get("growth_source"),
        iteration_ns=found.get("iteration_ns"),
        iterations=found.get("iterations", 0),
        findings=tuple(SeenFinding(**item) for item in found.get("findings", ())),
    )

"""The runs of a script that `memprof fit` makes: each in a process of its own, on a simulated GPU."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memprof._errors import UsageError
from memprof.advise.fit import Trial

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu

_VARIABLE = re.compile(r"[A-Za-z_]\w*=.*\{\}.*")


def parameter_name(parameter: str) -> str:
    """The parameter's name for the answer.

    Raises:
        click.UsageError: It has none.
    """
    bare = parameter.partition("=")[0] if _VARIABLE.fullmatch(parameter) else parameter.replace("{}", "")
    name = bare.strip().lstrip("-").strip(" =")
    if not name:
        raise click.UsageError(f"--param {parameter!r} names nothing; write '--batch-size {{}}' or 'BATCH_SIZE={{}}'")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRuns:
    """Runs a script with a value, and says whether it fits.

    Attributes:
        given: The GPU as the user named it.
        gpu: The same, found.
        limit_bytes: What a run may take.
        parameter: How the script takes the value.
        max_iterations: Training iterations of a run; None lets it come to its end.
        script: Its file.
        args: Its other arguments.
        dry: Whether nothing is computed.
    """

    given: str
    gpu: Gpu
    limit_bytes: int
    parameter: str
    max_iterations: int | None
    script: str
    args: tuple[str, ...]
    dry: bool

    def __call__(self, value: int) -> Trial:
        """Run the script once.

        Raises:
            UsageError: It failed for another reason than memory, or put nothing on the GPU.
        """
        begin = time.perf_counter()
        document, done = self._run(value)
        seconds = time.perf_counter() - begin
        shown = f"{self.gpu.name}, {parameter_name(self.parameter)} {value}"
        click.echo(f"{shown}: {seconds:.0f} s", err=True)
        counted = any(account["ooms"] for account in document.get("accounts", ()))
        if counted or document.get("ooms") or "CUDA out of memory" in done.stderr:
            return Trial(value, False, None, seconds, "out of memory")
        if done.returncode or not document:
            raise UsageError(f"the run with {shown} failed for another reason than memory: {_last_error(done.stderr)}")
        reserved = [
            peak["reserved_bytes"]
            for peak in document["peak"]
            if peak["device"].startswith("cuda") and peak["reserved_bytes"] is not None
        ]
        if not any(reserved):
            raise UsageError(f"the run with {shown} put nothing on CUDA; let {self.script} use device 'cuda'")
        needed = self.gpu.context_bytes + max(reserved)
        fits = needed <= self.limit_bytes
        return Trial(
            value, fits, needed, seconds, "" if fits else "above the limit", rising=self._cut and still_rising(document)
        )

    @property
    def _cut(self) -> bool:
        return self.max_iterations is not None

    def _run(self, value: int) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
        """The JSON report ({} where there is none) and how the process ended."""
        extra, environment = self._given_as(value)
        with tempfile.TemporaryDirectory(prefix="memprof-fit-") as folder:
            report = Path(folder, "report.json")
            options = ["--simulate", self.given, "--level", "steps"]
            options += [] if self.max_iterations is None else ["--max-iterations", str(self.max_iterations)]
            options += ["--dry"] if self.dry else []
            options += ["-o", str(Path(folder, "run.memprof")), "--format", "json", "--output", str(report)]
            command = [sys.executable, "-m", "memprof", "analyze", *options, self.script, *self.args, *extra]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            return (json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}), done

    def _given_as(self, value: int) -> tuple[list[str], dict[str, str]]:
        """The value as arguments, or in the environment."""
        environment = dict(os.environ)
        if _VARIABLE.fullmatch(self.parameter):
            variable, _, template = self.parameter.partition("=")
            environment[variable] = template.replace("{}", str(value))
            return [], environment
        if "{}" in self.parameter:
            return [part.replace("{}", str(value)) for part in shlex.split(self.parameter)], environment
        return [f"--{self.parameter.lstrip('-')}", str(value)], environment


def still_rising(document: Mapping[str, Any]) -> bool:
    """Whether a run was cut off while the peaks of its iterations still rose.

    Args:
        document: Its JSON report.

    Returns:
        True where the last training iteration took more than each one before it, on any CUDA device, and there were at
        least three: the first ones rise because an optimizer makes its state.
    """
    rows = [row["devices"] for row in document["iterations"] if row["kind"] == "train" and row["complete"]]
    for device in {name for row in rows for name in row if name.startswith("cuda")}:
        peaks = [row[device]["peak_allocated_bytes"] or 0 for row in rows if device in row]
        if len(peaks) >= 3 and peaks[-1] > max(peaks[:-1]):
            return True
    return False


def _last_error(text: str) -> str:
    """The last line that is no notice of memprof about its files."""
    lines = [line for line in text.strip().splitlines() if not line.startswith(("recording: ", "plot: "))]
    return lines[-1] if lines else "it printed no error"

"""`memprof fix`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memprof._errors import UsageError
from memprof.cli.program_command import ProgramCommand
from memprof.cli.show import FORMATS, check_writable, show_table

if TYPE_CHECKING:
    from memprof.advise.verify import Fix, Trial
    from memprof.detect.finding import Finding

_PATIENCE = 5
"""A run with edits may take so many times as long as the one without, and `_GRACE_S` more."""
_GRACE_S = 60
_LATE = 124


@click.command(
    "fix",
    cls=ProgramCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m` does, instead of a script.")
@click.option("--select", metavar="CODES", default="", help="Only these rules, by code or its beginning: MP101,MP2.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Run the script with the edits, too, and offer only those that help and change no results.",
)
@click.option("--apply", is_flag=True, help="Write the edits; files must be committed in git, or use --backup.")
@click.option("--backup", is_flag=True, help="With --apply: keep each file as FILE.orig.")
@click.option(
    "--level",
    type=click.Choice(("auto", "steps", "blocks", "tensors")),
    help="How closely to watch, as for analyze. [default: auto; tensors with --simulate]",
)
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True, help="Whose.")
@click.option("--simulate", "gpu", metavar="GPU", help="Run on the CPU as on this GPU: a name or a size.")
@click.option("--max-iterations", type=click.IntRange(min=1), metavar="N", help="Stop each run after N iterations.")
@click.option("--format", "fix_format", type=click.Choice(FORMATS), default="rich", show_default=True, help="Form.")
@click.option("--output", type=click.Path(dir_okay=False), help="File for the answer instead of the terminal.")
@click.argument("script", required=False)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(
    module: str | None,
    select: str,
    verify: bool,
    apply: bool,
    backup: bool,
    level: str | None,
    device: str,
    gpu: str | None,
    max_iterations: int | None,
    fix_format: str,
    output: str | None,
    script: str | None,
    args: tuple[str, ...],
) -> None:
    """Run SCRIPT with ARGS, and edit what eats its memory.

    Each edit is tried: the script is run again with it, from a copy in memory, and the edit is offered only where the
    finding is gone and the results are the same. Nothing is written without --apply.
    """
    if module is None and script is None:
        raise click.UsageError("name a script to run: memprof fix train.py (or -m MODULE)")
    if backup and not apply:
        raise click.UsageError("--backup says how to --apply; give both")
    check_writable(output, None)
    from memprof.advise.edits.writing import write_files

    codes = [code.strip().upper() for code in select.split(",") if code.strip()]
    order = {
        "module": module,
        "script": script,
        "args": list(args),
        "level": level or ("auto" if gpu is None else "tensors"),
        "device": device,
        "simulate": gpu,
        "max_iterations": max_iterations,
    }
    name = module or script or ""
    with tempfile.TemporaryDirectory(prefix="memprof-fix-") as folder:
        runs = _Runs(order, Path(folder), name)
        before = runs.run({})
        fix = _fix(runs, before, codes, verify=verify, apply=apply, backup=backup)
    written = write_files(fix.edited, backup=backup) if apply else ()
    _show(fix, name, written, form=fix_format, output=output)
    sys.exit(0 if fix.complete else 1)


def _fix(runs: _Runs, before: Trial, codes: Sequence[str], *, verify: bool, apply: bool, backup: bool) -> Fix:
    from memprof.advise.edits.writing import check_may_write
    from memprof.advise.verify import Verifier, fixable, unverified

    findings = fixable(runs.findings(), codes)
    made = unverified(findings)
    if apply:
        for path in made.edited.files:
            check_may_write(path, backup=backup)
    return Verifier(runs.run, before).verify(findings) if verify else made


class _Runs:
    """Runs the script in processes of their own.

    Args:
        order: What `memprof.cli.trial` needs to know of every run.
        folder: For the files of the runs.
        name: What to call the script.
    """

    def __init__(self, order: Mapping[str, Any], folder: Path, name: str) -> None:
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
        late = False
        try:
            done = subprocess.run(
                [sys.executable, "-m", "memprof.cli.trial", str(folder / "order.json")],
                env={"PYTHONHASHSEED": "0", **os.environ},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=self._limit_s,
            )
            out, err, status = done.stdout, done.stderr, done.returncode
        except subprocess.TimeoutExpired as error:
            out, err, status, late = error.stdout or b"", error.stderr or b"", _LATE, True
        seconds = time.perf_counter() - begin
        click.echo(f"memprof: run {self._count}, {self._name} {how}: {seconds:.1f} s", err=True)
        printed = out.decode("utf-8", "replace")
        if late:
            return _trial({}, printed, status, f"took longer than {self._limit_s:.0f} s")
        if self._limit_s is None:
            self._limit_s = _PATIENCE * seconds + _GRACE_S
        if not answer.exists():
            said = err.decode("utf-8", "replace").strip().splitlines()
            if not texts:
                raise UsageError(
                    f"{self._name} could not be run under memprof: {said[-1] if said else f'exit status {status}'}"
                )
            return _trial({}, printed, status or 1, said[-1] if said else "no answer")
        found = json.loads(answer.read_text(encoding="utf-8"))
        return _trial(found, printed, found["exit_status"], found["exception"])


def _trial(found: Mapping[str, Any], printed: str, status: int, exception: str | None) -> Trial:
    from memprof.advise.verify import SeenFinding, Trial

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


def _show(fix: Fix, name: str, written: Sequence[str], *, form: str, output: str | None) -> None:
    from memprof.report.fix_report import fix_page, fix_text

    show_table(
        lambda console: fix_page(fix, console, os.getcwd(), written),
        lambda: fix_text(fix, name, written),
        form=form,
        output=output,
    )

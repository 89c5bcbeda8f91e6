"""`memprof fit`."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memprof._errors import UsageError
from memprof.cli.show import FORMATS, check_writable, show_table

if TYPE_CHECKING:
    from memprof.advise.fit import Trial
    from memprof.simulate.gpus import Gpu

_VARIABLE = re.compile(r"[A-Za-z_]\w*=.*\{\}.*")


@click.command("fit", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--gpu", "gpus", multiple=True, required=True, help="A name (RTX 4090) or a size (24GiB); repeatable.")
@click.option(
    "--param",
    "parameter",
    required=True,
    metavar="HOW",
    help="How the script takes the value: an argument ('--batch-size {}', or batch-size for short), or an environment "
    "variable ('BATCH_SIZE={}').",
)
@click.option("--from", "first", type=click.IntRange(1), default=1, show_default=True, help="Smallest value.")
@click.option("--to", "most", type=click.IntRange(1), default=1 << 20, show_default=True, help="Largest value to try.")
@click.option("--step", type=click.IntRange(1), default=1, show_default=True, help="Distance between values.")
@click.option("--runs", type=click.IntRange(1), default=16, show_default=True, help="Most runs for each GPU.")
@click.option(
    "--max-iterations",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Training iterations of each run. The first step of an optimizer and the longest sequence must be among them.",
)
@click.option(
    "--safety",
    type=click.FloatRange(0, 0.9),
    default=0.05,
    show_default=True,
    help="Share of the GPU to leave free.",
)
@click.option("--dry", is_flag=True, help="Compute nothing: quick, and large values need no memory here.")
@click.option("--format", "fit_format", type=click.Choice(FORMATS), default="rich", show_default=True, help="Form.")
@click.option("--output", type=click.Path(dir_okay=False), help="File for the answer instead of the terminal.")
@click.argument("script", type=click.Path(exists=True, dir_okay=False))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(
    gpus: tuple[str, ...],
    parameter: str,
    first: int,
    most: int,
    step: int,
    runs: int,
    max_iterations: int,
    safety: float,
    dry: bool,
    fit_format: str,
    output: str | None,
    script: str,
    args: tuple[str, ...],
) -> None:
    """Find the largest batch (or other number) with which SCRIPT fits a GPU. Needs none.

    SCRIPT runs on the CPU, on a simulated GPU, a few times with small values and with the largest that fits, and one
    above it.
    """
    from memprof.advise.fit import largest_that_fits
    from memprof.report.fit_report import fit_table, fit_text
    from memprof.simulate.gpus import find_gpu

    check_writable(output, None)
    if most < first:
        raise click.UsageError(f"--to {most} is below --from {first}")
    name = _name(parameter)
    known = [find_gpu(gpu) for gpu in gpus]
    found = []
    for gpu, given in zip(known, gpus, strict=True):
        limit = round(gpu.total_bytes * (1 - safety))
        found.append(
            largest_that_fits(
                _runner(given, gpu, limit, parameter, max_iterations, script, args, dry=dry),
                gpu=gpu.name,
                total_bytes=gpu.total_bytes,
                limit_bytes=limit,
                first=first,
                most=most,
                step=step,
                runs=runs,
            )
        )
    show_table(lambda _: fit_table(found, name), lambda: fit_text(found, name), form=fit_format, output=output)
    if any(fit.largest is None for fit in found):
        raise click.exceptions.Exit(1)


def _name(parameter: str) -> str:
    """The parameter's name for the answer."""
    bare = parameter.partition("=")[0] if _VARIABLE.fullmatch(parameter) else parameter.replace("{}", "")
    name = bare.strip().lstrip("-").strip(" =")
    if not name:
        raise click.UsageError(f"--param {parameter!r} names nothing; write '--batch-size {{}}' or 'BATCH_SIZE={{}}'")
    return name


def _last_error(text: str) -> str:
    """The last line that is no notice of memprof about its files."""
    lines = [line for line in text.strip().splitlines() if not line.startswith(("recording: ", "plot: "))]
    return lines[-1] if lines else "it printed no error"


def _runner(
    given: str,
    gpu: Gpu,
    limit: int,
    parameter: str,
    max_iterations: int,
    script: str,
    args: tuple[str, ...],
    *,
    dry: bool,
) -> Callable[[int], Trial]:
    """Runs SCRIPT with a value in a process of its own, and says whether it fits."""
    from memprof.advise.fit import Trial

    def run(value: int) -> Trial:
        extra, environment = [], dict(os.environ)
        if _VARIABLE.fullmatch(parameter):
            variable, _, template = parameter.partition("=")
            environment[variable] = template.replace("{}", str(value))
        elif "{}" in parameter:
            extra = [part.replace("{}", str(value)) for part in shlex.split(parameter)]
        else:
            extra = [f"--{parameter.lstrip('-')}", str(value)]
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="memprof-fit-") as folder:
            report = Path(folder, "report.json")
            options = ["--simulate", given, "--level", "steps", "--max-iterations", str(max_iterations)]
            options += ["--dry"] if dry else []
            options += ["-o", str(Path(folder, "run.memprof")), "--format", "json", "--output", str(report)]
            command = [sys.executable, "-m", "memprof", "analyze", *options, script, *args, *extra]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            document: dict[str, Any] = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        seconds = time.perf_counter() - begin
        shown = f"{gpu.name}, {_name(parameter)} {value}"
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
            raise UsageError(f"the run with {shown} put nothing on CUDA; let {script} use device 'cuda'")
        needed = gpu.context_bytes + max(reserved)
        return Trial(value, needed <= limit, needed, seconds, "" if needed <= limit else "above the limit")

    return run

"""`memprof fix`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memprof.cli.program_command import device_option, level_option, program_command
from memprof.cli.show import answer_options, check_writable, show_table
from memprof.cli.trials import Trials

if TYPE_CHECKING:
    from memprof.advise.trial import Trial
    from memprof.advise.verify import Fix


@program_command("fix")
@click.option("--select", metavar="CODES", default="", help="Only these rules, by code or its beginning: MP101,MP2.")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Run the script with the edits, too, and offer only those that help and change no results.",
)
@click.option("--apply", is_flag=True, help="Write the edits; files must be committed in git, or use --backup.")
@click.option("--backup", is_flag=True, help="With --apply: keep each file as FILE.orig.")
@level_option("How closely to watch, as for analyze.")
@device_option
@click.option("--simulate", "gpu", metavar="GPU", help="Run on the CPU as on this GPU: a name or a size.")
@click.option("--max-iterations", type=click.IntRange(min=1), metavar="N", help="Stop each run after N iterations.")
@answer_options
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
    answer_format: str,
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
    check_writable(output, spare=script)
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
        trials = Trials(order, Path(folder), name, told=lambda text: click.echo(text, err=True))
        before = trials.run({})
        fix = _fix(trials, before, codes, verify=verify, apply=apply, backup=backup)
    written = write_files(fix.edited, backup=backup) if apply else ()
    _show(fix, name, written, form=answer_format, output=output)
    if before.exit_status:
        how = before.exception or f"exit status {before.exit_status}"
        click.echo(f"memprof: {name} did not end well without edits: {how}", err=True)
    sys.exit(before.exit_status if not fix.outcomes else int(not fix.complete))


def _fix(trials: Trials, before: Trial, codes: Sequence[str], *, verify: bool, apply: bool, backup: bool) -> Fix:
    from memprof.advise.edits.writing import check_may_write
    from memprof.advise.verify import Verifier, fixable, unverified

    findings = fixable(trials.findings(), codes)
    made = unverified(findings)
    if apply:
        for path in made.edited.files:
            check_may_write(path, backup=backup)
    return Verifier(trials.run, before).verify(findings) if verify else made


def _show(fix: Fix, name: str, written: Sequence[str], *, form: str, output: str | None) -> None:
    from memprof.report.fix_report import fix_page, fix_text

    show_table(
        lambda console: fix_page(fix, console, os.getcwd(), written),
        lambda: fix_text(fix, name, written),
        form=form,
        output=output,
    )

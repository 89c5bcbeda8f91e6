"""`memprof analyze`."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memprof._errors import MemprofError
from memprof.cli import Interrupted
from memprof.cli.program_command import device_option, level_option, program_command
from memprof.cli.ranks import of_rank, rank_of_job
from memprof.cli.run import free_name, load_program, record, simulated_gpu
from memprof.cli.show import check_writable, draw, exceeds, report_options, show

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis


@program_command("analyze")
@level_option(
    "How closely to watch: counters only, the CUDA allocator's own history too, every storage too, or "
    "(auto) counters with every storage for a few iterations."
)
@click.option(
    "-o", "recording", type=click.Path(dir_okay=False), help="File for the recording. [default: SCRIPT.memprof]"
)
@click.option(
    "--max-iterations", type=click.IntRange(min=1), metavar="N", help="Stop the run cleanly after N iterations."
)
@device_option
@click.option(
    "--simulate",
    "gpu",
    metavar="GPU",
    help="Run on the CPU and book what the script puts on CUDA as this GPU would: a name (A100-40GB), a "
    "size (8GiB), or several (2xA100-40GB).",
)
@click.option(
    "--dry",
    is_flag=True,
    help="With --simulate: compute nothing, so that a large model takes seconds and little memory.",
)
@click.option("--fix", is_flag=True, help="Also show edits for what was found; `memprof fix` tries and writes them.")
@report_options
def command(
    module: str | None,
    level: str | None,
    recording: str | None,
    max_iterations: int | None,
    device: str,
    gpu: str | None,
    dry: bool,
    fix: bool,
    report_format: str,
    output: str | None,
    plot: str | None,
    fail_on: str | None,
    verbose: bool,
    script: str | None,
    args: tuple[str, ...],
) -> None:
    """Run SCRIPT with ARGS as `python` would and say what eats its memory.

    The script need not be changed. Its exit status is kept; with --fail-on a finding makes it 1.
    """
    rank = rank_of_job()
    # The script may change the working directory.
    output, plot = (None if file is None else os.path.abspath(of_rank(file, rank)) for file in (output, plot))
    folder, pid = os.getcwd(), os.getpid()
    if gpu is not None and device == "cpu":
        raise click.UsageError("--simulate is about the memory of a GPU: leave out --device cpu")
    if dry and gpu is None:
        raise click.UsageError("--dry leaves out the arithmetic of a simulated GPU: name one with --simulate")
    if fix and (report_format != "rich" or output is not None):
        raise click.UsageError(
            "--fix shows edits on the terminal; for JSON, a page or a file use `memprof fix --no-verify`"
        )
    program = load_program(module, script, args)
    path = of_rank(recording if recording is not None else f"{program.stem}.memprof", rank)
    if recording is None:
        path = free_name(path)
    check_writable(output, plot, spare=path)
    check_writable(output, plot, spare=script)
    simulation = None if gpu is None else simulated_gpu(gpu, dry=dry)
    outcome, session = record(
        program,
        path.absolute(),
        level=level or ("auto" if simulation is None else "tensors"),
        device=device,
        max_iterations=max_iterations,
        simulation=simulation,
    )
    if os.getpid() != pid:  # a child that the script forked and let run to the end
        sys.exit(outcome.exit_status)
    status = outcome.exit_status
    # The reports of many processes would come out mixed up; the first one speaks, the others sum up.
    speaks = not rank or report_format != "rich" or output is not None
    summary = drawn = None
    try:
        from memprof.advise.diagnosis import diagnose
        from memprof.profiler import read_session
        from memprof.report.verdict import in_short

        diagnosis = diagnose(read_session(session))
        status = status or int(exceeds(diagnosis, fail_on))
        if speaks:
            show(diagnosis, report_format=report_format, output=output, verbose=verbose, cwd=folder)
            if fix:
                _show_edits(diagnosis, folder)
            if sys.stderr.isatty():  # the report is in a file, or most of it above the screen by now
                summary = in_short(diagnosis, folder)
        else:
            summary = f"rank {rank}: {in_short(diagnosis, folder)}"
        if plot is not None:
            draw(diagnosis, plot)
            drawn = plot
    except MemprofError as error:
        print(f"memprof: {error}", file=sys.stderr)
        status = status or 2
    except Exception:
        traceback.print_exc()
        print(
            f"memprof: the error above is one of memprof, not of the script; all was recorded in {path}",
            file=sys.stderr,
        )
        status = status or 2
    if report_format == "rich" or output is not None:
        _say_where(summary, None if session.writer.in_memory else path, drawn)
    if outcome.interrupted:
        raise Interrupted
    sys.exit(status)


def _show_edits(diagnosis: Diagnosis, cwd: str) -> None:
    from memprof.advise.verify import fixable, unverified
    from memprof.report.fix_report import fix_page
    from memprof.report.terminal import make_console

    console = make_console()
    console.print()
    console.print(fix_page(unverified(fixable(diagnosis.findings)), console, cwd, ()))


def _say_where(summary: str | None, path: Path | None, plot: str | None) -> None:
    said = [] if summary is None else [summary]
    if path is not None:
        said.append(f"recording: {path}")
    if plot is not None:
        said.append(f"plot: {plot}")
    if said:
        click.echo("; ".join(said), err=True)

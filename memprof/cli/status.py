"""`memprof status`."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memprof.cli.show import FORMATS, check_writable

if TYPE_CHECKING:
    from memprof.capture.gpus import GpuReport

_DEFAULT_INTERVAL_S = 2.0


@click.command("status")
@click.option(
    "--format",
    "status_format",
    type=click.Choice(FORMATS),
    default="rich",
    show_default=True,
    help="json is described in the documentation; with --watch it is one line an interval.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="File for the status instead of the terminal; --watch replaces it.",
)
@click.option(
    "--watch",
    "interval_s",
    metavar="[SECONDS]",
    type=click.FloatRange(min=0.1),
    is_flag=False,
    flag_value=_DEFAULT_INTERVAL_S,
    help="Look again every SECONDS (2 without a number) until Ctrl-C.",
)
def command(status_format: str, output: str | None, interval_s: float | None) -> None:
    """Show every GPU and the processes that hold its memory. Needs no torch, and no GPU to say so."""
    check_writable(output)
    try:
        if interval_s is None:
            _once(status_format, output)
        else:
            _watch(status_format, output, interval_s)
    except KeyboardInterrupt:
        if interval_s is None:
            raise
        sys.exit(0)


def _once(status_format: str, output: str | None) -> None:
    from memprof.capture.gpus import read_gpus

    _show(read_gpus(), status_format, output, indent=2)


def _watch(status_format: str, output: str | None, interval_s: float) -> None:
    from memprof.capture.gpus import read_gpus

    if status_format == "rich" and output is None and sys.stdout.isatty():
        _live(interval_s)
        return
    first = True
    while True:
        if not first:
            time.sleep(interval_s)
            if status_format == "rich" and output is None:
                click.echo()
        _show(read_gpus(), status_format, output, indent=None)
        sys.stdout.flush()
        first = False


def _live(interval_s: float) -> None:
    from rich.live import Live

    from memprof.capture.gpus import read_gpus
    from memprof.report.gpu_table import gpu_table
    from memprof.report.terminal import make_console

    console = make_console()
    with Live(gpu_table(read_gpus(), console), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            live.update(gpu_table(read_gpus(), console), refresh=True)


def _show(report: GpuReport, status_format: str, output: str | None, *, indent: int | None) -> None:
    if status_format == "json":
        from memprof.report.gpu_json import status_text

        text = status_text(report, indent=indent)
    else:
        from memprof.report.gpu_table import gpu_table
        from memprof.report.terminal import make_console

        file = io.StringIO()
        console = make_console() if output is None else make_console(file)
        console.print(gpu_table(report, console), crop=True)
        if output is None:
            return
        text = "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
    if output is None:
        click.echo(text, nl=False)
        return
    from memprof.report.destination import write_output

    write_output(Path(output), text.encode("utf-8"))

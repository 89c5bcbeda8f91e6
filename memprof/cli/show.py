"""What `analyze` and `report` share: options of a report, and showing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis

_F = TypeVar("_F", bound=Callable[..., Any])

FORMATS = ("rich", "json")
SEVERITIES = ("info", "warning", "error")


def report_options(command: _F) -> _F:
    """Add the options of a report to a command."""
    options = (
        click.option("--format", "report_format", type=click.Choice(FORMATS), default="rich", show_default=True),
        click.option("--output", type=click.Path(dir_okay=False), help="File for the report instead of the terminal."),
        click.option("--plot", type=click.Path(dir_okay=False), help="Draw memory over iterations into FILE (.png, .svg, .pdf)."),
        click.option(
            "--fail-on",
            type=click.Choice(SEVERITIES),
            help="Exit with status 1 when a finding is at least this severe.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Also say which rules could not decide, and why."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def show(
    diagnosis: Diagnosis, *, report_format: str, output: str | None, plot: str | None, verbose: bool
) -> None:
    """Print or write a diagnosis.

    Raises:
        OutputError: A file cannot be written.
    """
    from memprof.report.destination import write_output
    from memprof.report.terminal import TerminalOptions, TerminalReporter, make_console

    terminal = TerminalReporter(TerminalOptions(verbose=verbose))
    if plot is not None:
        from memprof.report.plot import PlotReporter

        PlotReporter().save(diagnosis, plot)
    if report_format == "json":
        from memprof.report.json_report import JsonReporter

        if output is None:
            click.echo(JsonReporter().to_text(diagnosis), nl=False)
        else:
            write_output(Path(output), JsonReporter().render(diagnosis))
    elif output is None:
        terminal.print(diagnosis, make_console())
    else:
        write_output(Path(output), terminal.render(diagnosis))


def exceeds(diagnosis: Diagnosis, fail_on: str | None) -> bool:
    """Whether a finding is at least as severe as `--fail-on` says."""
    from memprof.detect.finding import Severity

    worst = diagnosis.worst
    return fail_on is not None and worst is not None and worst.rank >= Severity(fail_on).rank

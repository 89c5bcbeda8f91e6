"""What `analyze` and `report` share: options of a report, and showing it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from memprof._errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from memprof.advise.diagnosis import Diagnosis
    from memprof.report.terminal import TerminalReporter

_F = TypeVar("_F", bound=Callable[..., Any])

FORMATS = ("rich", "json")
REPORT_FORMATS = (*FORMATS, "html")
SEVERITIES = ("info", "warning", "error")


def report_options(command: _F) -> _F:
    """Add the options of a report to a command."""
    options = (
        click.option(
            "--format",
            "report_format",
            type=click.Choice(REPORT_FORMATS),
            default="rich",
            show_default=True,
            help="html is one page with the picture in it. Without --output, all go to standard output, where a script "
            "prints, too.",
        ),
        click.option("--output", type=click.Path(dir_okay=False), help="File for the report instead of the terminal."),
        click.option(
            "--plot", type=click.Path(dir_okay=False), help="Draw memory over iterations into FILE (.png, .svg, .pdf)."
        ),
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


def answer_options(command: _F) -> _F:
    """Add the options of an answer that is one table: its form, and where it goes."""
    options = (
        click.option(
            "--format",
            "answer_format",
            type=click.Choice(FORMATS),
            default="rich",
            show_default=True,
            help="Form of the answer.",
        ),
        click.option("--output", type=click.Path(dir_okay=False), help="File for the answer instead of the terminal."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def show_table(
    table: Callable[[Console], RenderableType],
    text: Callable[[], str],
    *,
    form: str,
    output: str | None,
) -> None:
    """Show an answer that is one table, or its JSON, on the terminal or in a file.

    Args:
        table: Makes the table for a console.
        text: Makes the JSON.
        form: One of `FORMATS`.
        output: The file; None is the terminal.

    Raises:
        OutputError: The file cannot be written.
    """
    from memprof.report.destination import write_output
    from memprof.report.terminal import make_console

    if form == "json":
        written = text()
    else:
        file = io.StringIO()
        console = make_console() if output is None else make_console(file)
        console.print(table(console))
        if output is None:
            return
        written = "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
    if output is None:
        click.echo(written, nl=False)
    else:
        write_output(Path(output), written.encode("utf-8"))


def check_writable(output: str | None, plot: str | None = None, *, spare: str | os.PathLike[str] | None = None) -> None:
    """Find out before a long run, not after it, that a report has nowhere to go.

    Args:
        output: File for the report, if any.
        plot: File for a plot, if any.
        spare: The file that the report is about, which it must not replace.

    Raises:
        OutputError: A file cannot be written, it is `spare`, or the plot's suffix is none that is drawn.
    """
    for path in (output, plot):
        if path is None:
            continue
        if spare is not None and os.path.realpath(path) == os.path.realpath(spare):
            raise OutputError(f"{path!r} is what the report is about and would be overwritten; choose another name")
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise OutputError(f"cannot write {path!r}: there is no folder {folder!r}; create it first")
        if not os.access(path if os.path.exists(path) else folder, os.W_OK):
            raise OutputError(f"cannot write {path!r}: permission denied; choose another place")
    from memprof.report.destination import PLOT_FORMATS

    suffix = os.path.splitext(plot)[1].lower() if plot is not None else ""
    if suffix and suffix[1:] not in PLOT_FORMATS:
        suffixes = ", ".join(f".{name}" for name in PLOT_FORMATS)
        raise OutputError(f"cannot write a plot to {plot!r}: use a name that ends in {suffixes}")


def show(
    diagnosis: Diagnosis,
    *,
    report_format: str,
    output: str | None,
    verbose: bool,
    cwd: str | None = None,
) -> None:
    """Print or write a diagnosis; where a file cannot be written, the report is printed all the same.

    Args:
        diagnosis: What to show.
        report_format: One of `REPORT_FORMATS`.
        output: File for the report, or None for standard output.
        verbose: Also say why rules could not decide.
        cwd: Folder that paths are shown relative to; None is the current one.

    Raises:
        OutputError: A file cannot be written.
    """
    from memprof.report.terminal import TerminalOptions, TerminalReporter, make_console

    terminal = TerminalReporter(TerminalOptions(verbose=verbose, cwd=cwd))
    try:
        if output is not None:
            _write(diagnosis, terminal, report_format, output, cwd)
        elif report_format != "rich":
            click.echo(_content(diagnosis, report_format, cwd).decode("utf-8"), nl=False)
        else:
            terminal.print(diagnosis, make_console())
    except OutputError:
        terminal.print(diagnosis, make_console())
        raise
    finally:
        sys.stdout.flush()


def draw(diagnosis: Diagnosis, plot: str) -> None:
    """Draw a diagnosis into a file.

    Args:
        diagnosis: What to draw.
        plot: The file; its suffix says in which form.

    Raises:
        OutputError: The file cannot be written.
    """
    from memprof.report.plot import PlotReporter

    PlotReporter().save(diagnosis, plot)


def _write(diagnosis: Diagnosis, terminal: TerminalReporter, report_format: str, output: str, cwd: str | None) -> None:
    from memprof.report.destination import write_output

    content = terminal.render(diagnosis) if report_format == "rich" else _content(diagnosis, report_format, cwd)
    write_output(Path(output), content)


def _content(diagnosis: Diagnosis, report_format: str, cwd: str | None) -> bytes:
    """A report that is not for the terminal."""
    if report_format == "html":
        from memprof.report.html_report import HtmlOptions, HtmlReporter

        return HtmlReporter(HtmlOptions(cwd=cwd)).render(diagnosis)
    from memprof.report.json_report import JsonReporter

    return JsonReporter().render(diagnosis)


def exceeds(diagnosis: Diagnosis, fail_on: str | None) -> bool:
    """Whether a finding is at least as severe as `--fail-on` says."""
    from memprof.detect.finding import Severity

    worst = diagnosis.worst
    return fail_on is not None and worst is not None and worst.rank >= Severity(fail_on).rank

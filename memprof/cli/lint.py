"""`memprof lint`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from memprof.lint import LintOptions, LintResult

_FORMATS = ("text", "full", "json", "sarif", "github")
_CONFIDENCES = ("low", "medium", "high")


@click.command("lint")
@click.argument("paths", nargs=-1, type=click.Path(allow_dash=True))
@click.option(
    "--select", multiple=True, metavar="CODES", help="Report these codes only: MP101, or MP1 for all of them."
)
@click.option("--ignore", multiple=True, metavar="CODES", help="Do not report these codes.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out files and folders of this name or path.")
@click.option(
    "--confidence",
    type=click.Choice(_CONFIDENCES),
    help="Report what is at least this sure.  [default: medium]",
)
@click.option("--force-exclude", is_flag=True, help="Leave out what is excluded even where it is named, as hooks do.")
@click.option("--diff", is_flag=True, help="Show edits that would mend it, which nobody has tried; nothing is written.")
@click.option("--statistics", is_flag=True, help="Say how often each code was found instead of where.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever was found.")
@click.option(
    "--output-format",
    type=click.Choice(_FORMATS),
    default="text",
    show_default=True,
    help="text: a line for each; full: with the source line; sarif: for code scanning; github: beside the lines of a "
    "pull request.",
)
@click.option("--output", type=click.Path(dir_okay=False), help="File for the answer instead of the terminal.")
@click.option("--stdin-filename", metavar="NAME", help="What standard input (PATHS is -) is called.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The pyproject.toml to take [tool.memprof.lint] from, instead of the nearest one above the current folder.",
)
def command(
    paths: tuple[str, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    exclude: tuple[str, ...],
    confidence: str | None,
    force_exclude: bool,
    diff: bool,
    statistics: bool,
    exit_zero: bool,
    output_format: str,
    output: str | None,
    stdin_filename: str | None,
    config: Path | None,
) -> None:
    """Say what will eat memory, from the source alone.

    PATHS are Python files, notebooks, and folders, the current one where none is given; - is standard input. Nothing
    is run, and torch is not needed. What only a run can show is not found: use `memprof analyze` where the script can
    be run.

    Exit status: 0 when nothing was found, 1 when something was or a file could not be checked, 2 for wrong usage.
    """
    from memprof.report.destination import write_output
    from memprof.report.lint_formats import LINT_FORMATS, as_statistics, summary

    if (statistics or diff) and output_format != "text":
        name = "--statistics" if statistics else "--diff"
        raise click.UsageError(f"{name} has a form of its own; leave --output-format out")
    if diff and (statistics or "-" in paths):
        raise click.UsageError("--diff shows edits of files; leave --statistics and - out")
    options = _options(config, select, ignore, exclude, confidence, force_exclude=force_exclude)
    result = _check(paths or (".",), options, stdin_filename)
    text = as_statistics(result) if statistics else "" if diff else LINT_FORMATS[output_format](result)
    if diff:
        from memprof.cli.lint_edits import propose

        proposed = propose(result.findings)
        text = "".join(proposed.diffs)
        left = len(result.findings) - proposed.mended
        click.echo(
            f"{summary(result)} {proposed.mended} have an edit that nobody has tried, {left} have none. "
            "`memprof fix` tries edits, where the script can be run.",
            err=True,
        )
    if output is not None:
        write_output(Path(output), text.encode("utf-8", "backslashreplace"))
        if not diff:
            click.echo(summary(result), err=True)
    else:
        click.echo(text.encode("utf-8", "backslashreplace") if not sys.stdout.isatty() else text, nl=False)
    if (result.findings or result.unreadable) and not exit_zero:
        sys.exit(1)


def _options(
    config: Path | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    exclude: tuple[str, ...],
    confidence: str | None,
    *,
    force_exclude: bool,
) -> LintOptions:
    """Options of `pyproject.toml` with those of the command line; these replace or, for what is left out, add."""
    from dataclasses import replace

    from memprof.lint import Confidence, LintOptions, read_options
    from memprof.lint.options import codes_in, find_configuration

    file = config or find_configuration(Path.cwd())
    options = read_options(file) if file is not None else LintOptions()
    return replace(
        options,
        select=codes_in(select) or options.select,
        ignore=(*options.ignore, *codes_in(ignore)),
        exclude=(*options.exclude, *exclude),
        confidence=Confidence(confidence) if confidence is not None else options.confidence,
        force_exclude=force_exclude or options.force_exclude,
    )


def _check(paths: tuple[str, ...], options: LintOptions, stdin_filename: str | None) -> LintResult:
    from memprof._errors import UsageError
    from memprof.lint import check_paths
    from memprof.lint.files import from_bytes
    from memprof.lint.run import check_sources

    if "-" not in paths:
        if stdin_filename is not None:
            raise UsageError("--stdin-filename names standard input; give - as the path")
        return check_paths(paths, options)
    if len(paths) > 1:
        raise UsageError("- cannot be checked together with other paths")
    data = sys.stdin.buffer.read()
    return check_sources([from_bytes(data, stdin_filename or "stdin.py")], options)

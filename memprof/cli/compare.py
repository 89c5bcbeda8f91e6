"""`memprof compare`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from memprof.cli.show import answer_options, check_writable, show_table

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis


@click.command("compare")
@click.option(
    "--max-increase",
    type=click.FloatRange(min=0),
    metavar="PERCENT",
    help="Exit with status 1 where the peak of a device is higher by more than so many percent.",
)
@answer_options
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
def command(max_increase: float | None, answer_format: str, output: str | None, before: str, after: str) -> None:
    """Say what changed from the recording BEFORE to the recording AFTER. Needs no torch.

    Peaks, growth and time are shown side by side, and which findings are gone, new, or still there.
    """
    from memprof.advise.compare import compare
    from memprof.report.compare_report import compare_table, compare_text

    for recording in (before, after):
        check_writable(output, spare=recording)
    found = compare(_diagnosis(before), _diagnosis(after))
    show_table(
        lambda console: compare_table(found, _names(before, after), console, os.getcwd()),
        lambda: compare_text(found),
        form=answer_format,
        output=output,
    )
    if max_increase is not None:
        risen = [item.peak_increase for item in found.devices if item.peak_increase is not None]
        sys.exit(int(any(100 * share > max_increase for share in risen)))


def _diagnosis(path: str) -> Diagnosis:
    from memprof.advise.diagnosis import diagnose
    from memprof.record.files import open_file

    with open_file(path) as opened:
        return diagnose(opened)


def _names(before: str, after: str) -> tuple[str, str]:
    """What the runs are called: their files, or `before` and `after` where these have one name."""
    names = Path(before).name, Path(after).name
    return names if names[0] != names[1] else ("before", "after")

"""`memprof report`."""

from __future__ import annotations

import sys

import click

from memprof.cli.show import check_writable, exceeds, report_options, show


@click.command("report")
@report_options
@click.argument("recording", type=click.Path())
def command(
    recording: str, report_format: str, output: str | None, plot: str | None, fail_on: str | None, verbose: bool
) -> None:
    """Show the diagnosis of RECORDING, also of a run that was killed. Needs no torch."""
    from memprof.advise.diagnosis import diagnose
    from memprof.record.reader import open_recording

    check_writable(output, plot)
    with open_recording(recording) as opened:
        diagnosis = diagnose(opened)
    show(diagnosis, report_format=report_format, output=output, plot=plot, verbose=verbose)
    sys.exit(int(exceeds(diagnosis, fail_on)))

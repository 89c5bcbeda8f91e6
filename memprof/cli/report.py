"""`memprof report`."""

from __future__ import annotations

import sys

import click

from memprof.cli.show import check_writable, draw, exceeds, report_options, show


@click.command("report")
@report_options
@click.argument("recording", type=click.Path())
def command(
    recording: str, report_format: str, output: str | None, plot: str | None, fail_on: str | None, verbose: bool
) -> None:
    """Show the diagnosis of RECORDING, also of a run that was killed. Needs no torch.

    RECORDING may be a memory snapshot of PyTorch (torch.cuda.memory._dump_snapshot) too.
    """
    from memprof.advise.diagnosis import diagnose
    from memprof.record.files import open_file

    check_writable(output, plot, spare=recording)
    with open_file(recording) as opened:
        diagnosis = diagnose(opened)
    show(diagnosis, report_format=report_format, output=output, verbose=verbose)
    if plot is not None:
        draw(diagnosis, plot)
    sys.exit(int(exceeds(diagnosis, fail_on)))

"""`memprof export`."""

from __future__ import annotations

from pathlib import Path

import click

from memprof.cli.show import check_writable

EXPORTS = ("snapshot", "perfetto")


@click.command("export")
@click.option(
    "--format",
    "export_format",
    type=click.Choice(EXPORTS),
    required=True,
    help="snapshot: every storage, for pytorch.org/memory_viz. perfetto: a timeline, for ui.perfetto.dev.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="File to write. [default: RECORDING.pickle or .perfetto.json]",
)
@click.argument("recording", type=click.Path())
def command(recording: str, export_format: str, output: str | None) -> None:
    """Turn RECORDING into a file that other tools open. Needs no torch.

    RECORDING may be a memory snapshot of PyTorch too, for perfetto.
    """
    from memprof._errors import UsageError
    from memprof.advise.diagnosis import diagnose
    from memprof.record.files import open_file
    from memprof.record.snapshot import is_snapshot
    from memprof.report import load_reporter
    from memprof.report.destination import write_output

    reporter = load_reporter(export_format)
    path = Path(output) if output is not None else Path(Path(recording).stem + reporter.suffixes[0])
    check_writable(str(path), spare=recording)
    if export_format == "snapshot" and is_snapshot(recording):
        raise UsageError(f"{recording} is a snapshot of PyTorch already: pytorch.org/memory_viz opens it as it is")
    with open_file(recording) as opened:
        diagnosis = diagnose(opened)
    write_output(path, reporter().render(diagnosis))
    if export_format == "snapshot" and not diagnosis.model.storages:
        click.echo("no storage was watched, so the snapshot is empty; record with --level tensors", err=True)
    click.echo(f"{export_format}: {path}", err=True)

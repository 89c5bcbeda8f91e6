"""`memprof whatif`."""

from __future__ import annotations

import click

from memprof.cli.show import answer_options, check_writable, show_table


@click.command("whatif")
@click.option(
    "--conf",
    "settings",
    multiple=True,
    metavar="SETTINGS",
    help="Allocator settings to try, as in PYTORCH_ALLOC_CONF (expandable_segments:True,...); may be repeated.",
)
@click.option("--gpu", metavar="GPU", help="Replay on this GPU: a name (RTX 4090) or a size (24GiB).")
@click.option("--advise", is_flag=True, help="Try the settings that make sense, rank them, and say which to set.")
@answer_options
@click.argument("recording", type=click.Path())
def command(
    settings: tuple[str, ...],
    gpu: str | None,
    advise: bool,
    answer_format: str,
    output: str | None,
    recording: str,
) -> None:
    """Replay RECORDING under other allocator settings or on another GPU. Needs no torch.

    RECORDING may be a memory snapshot of PyTorch with a trace too.
    """
    from memprof.advise.what_if import candidates, ranked, what_if
    from memprof.record.files import open_file
    from memprof.report.what_if_json import what_if_text
    from memprof.report.what_if_table import what_if_table
    from memprof.simulate.gpus import find_gpu

    check_writable(output, spare=recording)
    chosen = None if gpu is None else find_gpu(gpu)
    with open_file(recording) as opened:
        tried = dict.fromkeys((*settings, *(candidates(opened) if advise else ())))
        found = what_if(opened, list(tried), gpu=chosen)
    if advise:
        found = tuple(map(ranked, found))
    show_table(
        lambda console: what_if_table(found, console, advise=advise),
        lambda: what_if_text(found),
        form=answer_format,
        output=output,
    )

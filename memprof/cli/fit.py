"""`memprof fit`."""

from __future__ import annotations

import click

from memprof.cli.fit_runs import ScriptRuns, parameter_name
from memprof.cli.show import answer_options, check_writable, show_table


@click.command("fit", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    required=True,
    metavar="GPU",
    help="A name (RTX 4090), a size (24GiB), or several (2xRTX 4090); repeatable.",
)
@click.option(
    "--param",
    "parameter",
    required=True,
    metavar="HOW",
    help="How the script takes the value: an argument ('--batch-size {}', or batch-size for short), or an environment "
    "variable ('BATCH_SIZE={}').",
)
@click.option(
    "--from", "first", type=click.IntRange(1), metavar="N", default=1, show_default=True, help="Smallest value."
)
@click.option(
    "--to",
    "most",
    type=click.IntRange(1),
    metavar="N",
    default=1 << 20,
    show_default=True,
    help="Largest value to try.",
)
@click.option(
    "--step", type=click.IntRange(1), metavar="N", default=1, show_default=True, help="Distance between values."
)
@click.option(
    "--runs", type=click.IntRange(1), metavar="N", default=16, show_default=True, help="Most runs for each GPU."
)
@click.option(
    "--max-iterations",
    type=click.IntRange(1),
    metavar="N",
    default=3,
    show_default=True,
    help="Training iterations of each run. The first step of an optimizer and the longest sequence must be among them.",
)
@click.option(
    "--safety",
    type=click.FloatRange(0, 0.9),
    metavar="SHARE",
    default=0.05,
    show_default=True,
    help="Share of the GPU to leave free.",
)
@click.option(
    "--whole-run",
    is_flag=True,
    help="Let each run come to its end instead: evaluations, the last batch, the longest sequence. With --dry, quick.",
)
@click.option("--dry", is_flag=True, help="Compute nothing: quick, and large values need no memory here.")
@answer_options
@click.argument("script", type=click.Path(exists=True, dir_okay=False))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(
    gpus: tuple[str, ...],
    parameter: str,
    first: int,
    most: int,
    step: int,
    runs: int,
    max_iterations: int,
    safety: float,
    whole_run: bool,
    dry: bool,
    answer_format: str,
    output: str | None,
    script: str,
    args: tuple[str, ...],
) -> None:
    """Find the largest batch (or other number) with which SCRIPT fits a GPU. Needs none.

    SCRIPT runs on the CPU, on a simulated GPU, a few times with small values and with the largest that fits, and one
    above it.
    """
    from memprof.advise.fit import largest_that_fits
    from memprof.report.fit_report import fit_table, fit_text
    from memprof.simulate.gpus import find_gpus

    check_writable(output, spare=script)
    if most < first:
        raise click.UsageError(f"--to {most} is below --from {first}")
    name = parameter_name(parameter)
    known = [find_gpus(gpu) for gpu in gpus]
    found = []
    for (gpu, count), given in zip(known, gpus, strict=True):
        limit = round(gpu.total_bytes * (1 - safety))
        found.append(
            largest_that_fits(
                ScriptRuns(
                    given=given,
                    gpu=gpu,
                    limit_bytes=limit,
                    parameter=parameter,
                    max_iterations=None if whole_run else max_iterations,
                    script=script,
                    args=args,
                    dry=dry,
                ),
                gpu=gpu.name if count == 1 else f"{count}x{gpu.name}",
                total_bytes=gpu.total_bytes,
                limit_bytes=limit,
                first=first,
                most=most,
                step=step,
                runs=runs,
            )
        )
    show_table(lambda _: fit_table(found, name), lambda: fit_text(found, name), form=answer_format, output=output)
    if any(fit.largest is None for fit in found):
        raise click.exceptions.Exit(1)

"""`memprof analyze`."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memprof._errors import MemprofError, RecordingError, UsageError
from memprof._version import __version__
from memprof.cli import Interrupted
from memprof.cli.show import check_writable, exceeds, report_options, show

if TYPE_CHECKING:
    from memprof.capture.script import Outcome, Program
    from memprof.capture.simulated.cuda import SimulatedCuda


class _AnalyzeCommand(click.Command):
    """Options end at SCRIPT or `-m MODULE`; what follows belongs to the script, as with `python`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flags = {name for item in self.params if getattr(item, "is_flag", False) for name in item.opts}
        flags.update(ctx.help_option_names)
        position = 0
        while position < len(args):
            word = args[position]
            if not word.startswith("-") or word in ("-", "--"):
                break
            if word == "-m" or (word.startswith("-m") and not word.startswith("--")):
                end = position + (2 if word == "-m" else 1)
                args = [*args[:end], "--", *args[end:]]
                break
            position += 1 if word in flags or "=" in word or (word[1] != "-" and len(word) > 2) else 2
        return super().parse_args(ctx, args)


@click.command(
    "analyze",
    cls=_AnalyzeCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m` does, instead of a script.")
@click.option(
    "--level",
    type=click.Choice(("auto", "steps", "blocks", "tensors")),
    help="How closely to watch: counters only, the CUDA allocator's own history too, every storage too, or "
    "(auto) counters with every storage for a few iterations. [default: auto; tensors with --simulate]",
)
@click.option(
    "-o", "recording", type=click.Path(dir_okay=False), help="File for the recording. [default: SCRIPT.memprof]"
)
@click.option(
    "--max-iterations", type=click.IntRange(min=1), metavar="N", help="Stop the run cleanly after N iterations."
)
@click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "cuda")),
    default="auto",
    show_default=True,
    help="Whose memory to read.",
)
@click.option(
    "--simulate",
    "gpu",
    metavar="GPU",
    help="Run on the CPU and book what the script puts on CUDA as this GPU would: a name (A100-40GB) or a size (8GiB).",
)
@report_options
@click.argument("script", required=False)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(
    module: str | None,
    level: str | None,
    recording: str | None,
    max_iterations: int | None,
    device: str,
    gpu: str | None,
    report_format: str,
    output: str | None,
    plot: str | None,
    fail_on: str | None,
    verbose: bool,
    script: str | None,
    args: tuple[str, ...],
) -> None:
    """Run SCRIPT with ARGS as `python` would and say what eats its memory.

    The script need not be changed. Its exit status is kept; with --fail-on a finding makes it 1.
    """
    # The script may change the working directory.
    output, plot = (None if file is None else os.path.abspath(file) for file in (output, plot))
    folder, pid = os.getcwd(), os.getpid()
    if gpu is not None and device == "cpu":
        raise click.UsageError("--simulate is about the memory of a GPU: leave out --device cpu")
    program = _load(module, script, args)
    check_writable(output, plot)
    path = Path(recording) if recording is not None else Path(f"{program.stem}.memprof")
    simulation = None if gpu is None else _simulation(gpu)
    outcome, session = _record(
        program,
        path.absolute(),
        level=level or ("auto" if simulation is None else "tensors"),
        device=device,
        max_iterations=max_iterations,
        simulation=simulation,
    )
    if os.getpid() != pid:  # a child that the script forked and let run to the end
        sys.exit(outcome.exit_status)
    status = outcome.exit_status
    try:
        from memprof.advise.diagnosis import diagnose
        from memprof.profiler import read_session

        diagnosis = diagnose(read_session(session))
        status = status or int(exceeds(diagnosis, fail_on))
        show(diagnosis, report_format=report_format, output=output, plot=plot, verbose=verbose, cwd=folder)
    except MemprofError as error:
        print(f"memprof: {error}", file=sys.stderr)
        status = status or 2
    except Exception:
        traceback.print_exc()
        print(
            f"memprof: the error above is one of memprof, not of the script; all was recorded in {path}",
            file=sys.stderr,
        )
        status = status or 2
    _say_where(path, plot, in_memory=session.writer.in_memory, quiet=report_format == "json" and output is None)
    if outcome.interrupted:
        raise Interrupted
    sys.exit(status)


def _load(module: str | None, script: str | None, args: tuple[str, ...]) -> Program:
    from memprof.capture.script import load_module, load_script

    if module is None and script is None:
        raise click.UsageError("name a script to run: memprof analyze train.py (or -m MODULE)")
    try:
        if module is not None:
            return load_module(module, (*((script,) if script is not None else ()), *args))
        assert script is not None
        return load_script(script, args)
    except SyntaxError as error:
        sys.excepthook(SyntaxError, error.with_traceback(None), None)
        sys.exit(1)


def _simulation(gpu: str) -> SimulatedCuda:
    """The GPU of `--simulate`, not started yet."""
    from memprof.profiler import simulate_gpu

    return simulate_gpu(gpu)


def _record(
    program: Program,
    path: Path,
    *,
    level: str,
    device: str,
    max_iterations: int | None,
    simulation: SimulatedCuda | None,
) -> tuple[Outcome, Any]:
    from memprof.capture.script import run, user_folders
    from memprof.profiler import import_capture
    from memprof.record.events import RunInfo

    capture = import_capture()
    progress = _Progress()
    options = capture.CaptureOptions(
        level=capture.Level(level),
        device=device,
        max_iterations=max_iterations,
        user_folders=user_folders(program),
        progress=progress if sys.stderr.isatty() else None,
    )
    info = RunInfo(
        script=str(Path(program.file).resolve()),
        argv=program.argv,
        memprof=__version__,
        extra={"memprof_fresh_process": True},
    )
    outcome: Outcome | None = None
    with _TerminatedAsExit(), simulation or nullcontext():
        try:
            session = capture.CaptureSession(path, info, options)
        except RecordingError as error:
            raise UsageError(str(error)) from error
        try:
            session.start()
            outcome = run(program, stopped=capture.StopRun)
        finally:
            session.stop(
                exit_status=outcome.exit_status if outcome is not None else 1,
                exception=outcome.exception if outcome is not None else None,
            )
            progress.clear()
    return outcome, session


class _Progress:
    """One line on a terminal: iteration, allocated, peak; at most ten times a second."""

    def __init__(self) -> None:
        self._shown = False
        self._next = 0.0

    def __call__(self, iteration: int, allocated_bytes: int | None, peak_bytes: int | None) -> None:
        import time

        from memprof.units import format_bytes

        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.1
        self._shown = True
        figures = [
            f"{label} {format_bytes(value)}"
            for label, value in (("allocated", allocated_bytes), ("peak", peak_bytes))
            if value is not None
        ]
        print(f"\r\033[Kmemprof: iteration {iteration}  {'  '.join(figures)}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Wipe the line."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


class _TerminatedAsExit:
    """SIGTERM ends the script as an exit does, so that what was recorded is still diagnosed.

    What the script forks must die of SIGTERM as if nobody listened. Python drops a signal that it has noted
    but not yet handled when it forks, so the signal is blocked from before the fork until the child has its
    default back.
    """

    _previous: Callable[..., Any] | int | None = None
    _mask: set[int] | None = None

    def __enter__(self) -> None:
        def leave(number: int, _frame: Any) -> None:
            sys.exit(128 + number)

        try:
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._previous = signal.signal(signal.SIGTERM, leave)
        except ValueError:  # not in the main thread
            return
        if self._previous is not None and hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._block, after_in_parent=self._unblock, after_in_child=self._in_child)

    def _block(self) -> None:
        if self._previous is not None:
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _unblock(self) -> None:
        if self._mask is not None:
            mask, self._mask = self._mask, None
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _in_child(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._previous = None
        self._unblock()

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


def _say_where(path: Path, plot: str | None, *, in_memory: bool, quiet: bool) -> None:
    if quiet:
        return
    said = [] if in_memory else [f"recording: {path}"]
    if plot is not None:
        said.append(f"plot: {plot}")
    if said:
        click.echo("; ".join(said), err=True)

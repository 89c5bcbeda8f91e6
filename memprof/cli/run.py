"""Loading and recording a program, for the commands that run one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from memprof._errors import RecordingError, UsageError
from memprof._version import __version__

if TYPE_CHECKING:
    from memprof.capture.script import Outcome, Program
    from memprof.capture.simulated.cuda import SimulatedCuda


def load_program(module: str | None, script: str | None, args: tuple[str, ...]) -> Program:
    """Load a script, or a module as `python -m` does; a syntax error is shown as `python` shows it, and exits.

    Args:
        module: Name of a module, or None.
        script: Path of a script; with a module its first argument.
        args: The arguments.
    """
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


def free_name(path: Path) -> Path:
    """A name for a recording that no other run is writing.

    Args:
        path: The name it should have.

    Returns:
        That name, or `train.2.memprof`, `train.3.memprof`, ... while runs of the same script go on in this folder.
    """
    from memprof.record.journal import is_being_written

    names = (path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not is_being_written(name))


def simulated_gpu(gpu: str, *, dry: bool = False) -> SimulatedCuda:
    """The GPU of `--simulate`, not started yet."""
    from memprof.profiler import simulate_gpu

    return simulate_gpu(gpu, dry=dry)


def record(
    program: Program,
    path: Path,
    *,
    level: str,
    device: str,
    max_iterations: int | None,
    simulation: SimulatedCuda | None,
) -> tuple[Outcome, Any]:
    """Run a program and record it.

    Args:
        program: What to run.
        path: File for the recording.
        level: How closely to watch.
        device: Whose memory to read.
        max_iterations: Stop after so many, or None.
        simulation: The GPU to put under it, or None.

    Returns:
        How it ended, and the capture session with what was recorded.

    Raises:
        UsageError: The recording cannot be written.
    """
    from memprof.capture.script import run, user_folders
    from memprof.profiler import import_capture
    from memprof.record.run_info import RunInfo

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
            outcome = run(program, stopped=capture.StopRun, failed=session.failed)
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

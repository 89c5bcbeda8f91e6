"""The public way in: a context manager, marks for iterations, and simulated GPUs.

Capture and diagnosis meet here and nowhere else.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from memprof._errors import TorchUnavailableError, UsageError
from memprof._exceptions import message_of
from memprof._version import __version__
from memprof.advise.diagnosis import Diagnosis, diagnose
from memprof.detect.finding import Finding
from memprof.record.reader import Recording, open_recording
from memprof.record.run_info import RunInfo

if TYPE_CHECKING:
    from torch import Tensor

    from memprof.capture.session import CaptureSession
    from memprof.capture.simulated.cuda import SimulatedCuda
    from memprof.simulate.gpus import Gpu

LEVELS = ("auto", "steps", "blocks", "tensors")
DEVICES = ("auto", "cpu", "cuda")

_T = TypeVar("_T")


class Profiler:
    """Records the memory of a training or evaluation loop and says what is wrong with it.

    Use it as a context manager::

        with memprof.Profiler() as prof:
            for batch in loader:
                train_step(batch)
        print(prof.report())

    Iterations are found without help. `prof.step()` at the end of the loop body marks them by hand. A
    profiler inside a running profiler records nothing of its own and shows what the outer one has
    recorded so far.

    Args:
        level: `auto` (watch closely for a few iterations, counters otherwise), `steps` (counters only), `blocks` (the
            CUDA allocator's own history too) or `tensors` (every storage too, all the time).
        output: File for the recording; by default a temporary one that goes with the profiler.
        device: `auto`, `cpu` or `cuda`: whose memory is read.
        max_iterations: End the `with` block cleanly after so many iterations.

    Raises:
        UsageError: An option has a value that is not offered.
    """

    def __init__(
        self,
        level: str = "auto",
        *,
        output: str | os.PathLike[str] | None = None,
        device: str = "auto",
        max_iterations: int | None = None,
    ) -> None:
        if level not in LEVELS:
            raise UsageError(f"level {level!r} is not one of {', '.join(LEVELS)}")
        if device not in DEVICES:
            raise UsageError(f"device {device!r} is not one of {', '.join(DEVICES)}")
        if max_iterations is not None and max_iterations < 1:
            raise UsageError(f"max_iterations is {max_iterations}; it must be at least 1")
        self._level = level
        self._device = device
        self._max_iterations = max_iterations
        self._output = Path(output).absolute() if output is not None else None
        self._pid = os.getpid()
        self._session: CaptureSession | None = None
        self._outer: CaptureSession | None = None
        self._diagnosis: Diagnosis | None = None
        self._recording: Recording | None = None

    # ---- recording ---------------------------------------------------------------------

    def __enter__(self) -> Profiler:
        capture = import_capture()
        if self._session is not None or self._outer is not None:
            raise UsageError("this Profiler has been used already; make a new one for each recording")
        self._outer = capture.active_session()
        if self._outer is not None:
            return self
        if self._output is None:
            folder = tempfile.mkdtemp(prefix="memprof-")
            weakref.finalize(self, _remove_folder, folder, os.getpid())
            self._output = Path(folder) / "run.memprof"
        options = capture.CaptureOptions(
            level=capture.Level(self._level), device=self._device, max_iterations=self._max_iterations
        )
        run = RunInfo(script=_calling_script(), argv=tuple(sys.argv), memprof=__version__)
        session = capture.CaptureSession(self._output, run, options)
        try:
            session.start()
        except BaseException:
            session.stop(exit_status=1)
            raise
        self._session, self._pid = session, os.getpid()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._session is None:
            return False
        stopped = kind is not None and kind is import_capture().StopRun
        exception = None if error is None or stopped else f"{type(error).__name__}: {message_of(error)}"
        if error is not None and not stopped:
            self._session.failed(error)
        self._session.stop(exit_status=0 if exception is None else 1, exception=exception)
        return stopped

    def step(self) -> None:
        """Mark the end of an iteration; from the first call on nothing else ends one."""
        session = self._session or self._outer
        if session is None:
            raise UsageError("prof.step() is for inside the `with` block")
        session.step()

    def storages_of(self, tensors: Iterable[Tensor]) -> set[int]:
        """Find tensors in the recording, while it runs.

        Args:
            tensors: Any tensors of this process.

        Returns:
            Ids of their storages, as in `diagnosis.model.storages`; those that were not watched are left out.
        """
        session = self._session or self._outer
        return set() if session is None else session.storages_of(tensors)

    def holders_of(self, storages: Collection[int]) -> dict[int, str]:
        """Say who keeps storages alive, while the recording runs.

        Args:
            storages: A few ids from `diagnosis.model.storages`.

        Returns:
            Storage -> holder in one phrase: "list `kept` of module `train` train.py:3". Those whose holder is out of
            Python's reach are left out.
        """
        session = self._session or self._outer
        return {} if session is None else {key: held.text for key, held in session.holders_of(storages).items()}

    @property
    def is_outermost(self) -> bool:
        """Whether this profiler records by itself: neither inside another one nor in a forked child."""
        return self._session is not None and self._pid == os.getpid()

    # ---- results -----------------------------------------------------------------------

    @property
    def recording(self) -> Recording:
        """What was recorded.

        Raises:
            UsageError: Nothing has been recorded yet.
        """
        session = self._session or self._outer
        if session is None:
            raise UsageError("nothing is recorded yet; use the profiler in a `with` block first")
        if self._session is None or self._session.running:
            return read_session(session)  # as far as it has come
        if self._recording is None:
            self._recording = read_session(session)
        return self._recording

    @property
    def diagnosis(self) -> Diagnosis:
        """Model of the run, findings and remedies with their savings."""
        if self._session is None or self._session.running:
            return diagnose(self.recording)
        if self._diagnosis is None:
            self._diagnosis = diagnose(self.recording)
        return self._diagnosis

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, most severe first."""
        return self.diagnosis.findings

    def report(self, *, width: int = 100) -> str:
        """The diagnosis as text.

        Args:
            width: Columns.

        Returns:
            What `memprof analyze` prints, without colour.
        """
        from memprof.report.terminal import TerminalOptions, TerminalReporter

        return TerminalReporter(TerminalOptions(text_width=width)).to_text(self.diagnosis)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw memory over iterations into a PNG, SVG or PDF file.

        Raises:
            OutputError: The file cannot be written.
        """
        from memprof.report.plot import PlotReporter

        PlotReporter().save(self.diagnosis, path)


def read_session(session: CaptureSession) -> Recording:
    """Open what a session has recorded, also when the disk failed and it lies in memory."""
    session.flush()
    memory = session.writer.memory
    return open_recording(session.writer.path) if memory is None else Recording(memory, None)


def _remove_folder(folder: str, pid: int) -> None:
    """Remove a temporary folder, but not in a forked child: the recording is its parent's."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def import_capture() -> Any:
    """The capture package; importing it imports torch.

    Raises:
        TorchUnavailableError: torch is not installed or does not load.
    """
    try:
        from memprof.capture import session
    except ImportError as error:
        raise TorchUnavailableError(str(error)) from error
    return session


def simulate_gpu(gpu: str | Gpu, *, settings: str | None = None, dry: bool = False) -> SimulatedCuda:
    """Let CUDA code run on the CPU, with the memory it would take on a GPU booked block by block.

    ::

        with memprof.simulate_gpu("A100-40GB"):
            model = Net().cuda()
            ...
            print(torch.cuda.max_memory_reserved())

    Inside, `torch.cuda.is_available()` is true, tensors on "cuda" live in host memory, and PyTorch's caching
    allocator is followed block by block: its counters, its history and its out-of-memory errors are those of
    the GPU. A `Profiler` inside records the simulated devices.

    Args:
        gpu: Name (`A100-40GB`, `RTX 4090`) or size (`8GiB`) of the GPU, or one that `memprof.simulate.gpus` knows;
            `2xA100-40GB` are two, up to eight.
        settings: Of the caching allocator, as in `PYTORCH_ALLOC_CONF`; None is what the environment says.
        dry: Leave the arithmetic out: tensors on "cuda" have shapes and no values, so that a model of billions of
            parameters takes seconds and little host memory. A number that is read from one (`loss.item()`) is 0; where
            the script would decide by a value that was not computed, `DryRunStoppedError` is raised.

    Returns:
        A context manager.

    Raises:
        UsageError: The GPU is not known, a setting does not exist, or this process has used CUDA or run a backward
            before.
    """
    from memprof.simulate.gpus import find_gpus
    from memprof.simulate.settings import AllocatorSettings

    found, count = find_gpus(gpu) if isinstance(gpu, str) else (gpu, 1)
    parsed = None if settings is None else AllocatorSettings.parse(settings)
    import_capture()
    from memprof.capture.simulated.cuda import SimulatedCuda

    return SimulatedCuda(found, count=count, settings=parsed, dry=dry)


def _calling_script() -> str | None:
    main = sys.modules.get("__main__")
    return getattr(main, "__file__", None)


# ---- marks ------------------------------------------------------------------------------------


def iterations(iterable: Iterable[_T]) -> Iterator[_T]:
    """Mark each turn of a loop as one iteration: `for batch in memprof.iterations(loader)`.

    Args:
        iterable: What the loop goes over.

    Yields:
        Its items. An iteration ends when the next item is asked for; outside a profiler this does
        nothing.
    """
    first = True
    for item in iterable:
        if not first:
            mark_step()
        first = False
        yield item
        del item
    if not first:
        mark_step()


def mark_step() -> None:
    """End the iteration of the profiler that is recording, if one is."""
    capture = sys.modules.get("memprof.capture.session")
    session = capture.active_session() if capture is not None else None
    if session is not None:
        session.step()


__all__ = ["Profiler", "import_capture", "iterations", "read_session", "simulate_gpu"]

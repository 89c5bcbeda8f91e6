"""What is measured: each subject attaches to a running loop and lets go of it again."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import memprof
from benchmarks.workloads import Workload

Step = Callable[[], None]
Attach = Callable[[Workload, Path], AbstractContextManager[Step]]


class NotHereError(Exception):
    """A subject cannot run here; the text says why."""


@dataclass(frozen=True)
class Subject:
    """One way to profile.

    Attributes:
        name: Key in the JSON output.
        title: What the table says.
        attach: Installs it for the `with` block and gives the step to call.
        every: Measured in one of so many rounds; the slow ones need fewer to be told apart from 1.
        note: What the reader should know about the row.
    """

    name: str
    title: str
    attach: Attach
    every: int = 1
    note: str = ""


@contextmanager
def bare(work: Workload, _folder: Path) -> Iterator[Step]:
    yield work.step


def memprof_level(level: str) -> Attach:
    @contextmanager
    def attach(work: Workload, folder: Path) -> Iterator[Step]:
        with memprof.Profiler(level, output=folder / f"{level}.memprof", device="cpu"):
            yield work.step

    return attach


class NothingMode(TorchDispatchMode):
    """The least that anything costs that sees every op from Python."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs) if kwargs else func(*args)


@contextmanager
def nothing_mode(work: Workload, _folder: Path) -> Iterator[Step]:
    with NothingMode():
        yield work.step


@contextmanager
def mem_tracker(work: Workload, _folder: Path) -> Iterator[Step]:
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    tracker.track_external(work.model, work.optimizer, work.inputs, work.targets)

    def step() -> None:
        with tracker:
            work.step()
        tracker.reset_mod_stats()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield step


def torch_profiler(*, with_stack: bool) -> Attach:
    @contextmanager
    def attach(work: Workload, _folder: Path) -> Iterator[Step]:
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, with_stack=with_stack
        ):
            yield work.step

    return attach


@contextmanager
def memray(work: Workload, folder: Path) -> Iterator[Step]:
    tracker = _peer("memray").Tracker
    path = folder / "memray.bin"
    path.unlink(missing_ok=True)
    with tracker(path):
        yield work.step


@contextmanager
def memlab(work: Workload, _folder: Path) -> Iterator[Step]:
    with redirect_stdout(io.StringIO()):  # it says that it found no device
        lines = _peer("pytorch_memlab").LineProfiler(type(work).step, type(work.model).forward)
        lines.enable()
    try:
        yield work.step
    finally:
        with redirect_stdout(io.StringIO()):
            lines.disable()


def _peer(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise NotHereError(f"not measured: {error}") from error


SUBJECTS = (
    Subject("steps", "memprof, level `steps`", memprof_level("steps")),
    Subject("nothing", "a dispatch mode that does nothing", nothing_mode, note="the floor for seeing each op"),
    Subject("tensors", "memprof, level `tensors`", memprof_level("tensors")),
    Subject("mem_tracker", "`MemTracker` of torch", mem_tracker, every=4, note="entered and reset each iteration"),
    Subject(
        "profiler", "`torch.profiler`, memory", torch_profiler(with_stack=False), every=4, note="export not counted"
    ),
    Subject(
        "profiler_stacks",
        "`torch.profiler`, memory and stacks",
        torch_profiler(with_stack=True),
        every=4,
        note="export not counted",
    ),
    Subject("memray", "memray, Python stacks", memray, every=4, note="sees the heap, not tensors"),
    Subject("memlab", "pytorch_memlab `LineProfiler`", memlab, every=4, note="does nothing without CUDA"),
)

AUTO = Subject("auto", "memprof, level `auto`", memprof_level("auto"))

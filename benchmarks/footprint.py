"""What memprof leaves on disk and in memory, and how long it takes to start."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, record_function

import memprof
from benchmarks.workloads import Workload

LEVELS = ("steps", "auto", "tensors")


def recording_bytes(make: Callable[[], Workload], folder: Path, *, few: int, many: int) -> dict[str, float]:
    """Bytes a recording grows by with each further iteration, by level."""
    result = {}
    for level in LEVELS:
        sizes = []
        for iterations in (few, many):
            work = make()
            path = folder / "size.memprof"
            with memprof.Profiler(level, output=path, device="cpu"):
                for _ in range(iterations):
                    work.step()
            sizes.append(path.stat().st_size)
        result[level] = (sizes[1] - sizes[0]) / (many - few)
    return result


def observer_effect(make: Callable[[], Workload], folder: Path, *, iterations: int) -> dict[str, dict[str, int]]:
    """Live tensor bytes of the last iteration with and without memprof, the garbage collector switched off.

    Counted by torch's CPU allocator, which reports to `torch.profiler`: what it sees does not hang on which
    tensors have a Python object (a dispatch mode gives one to each).
    """
    result = {}
    for level in (None, *LEVELS):
        torch.manual_seed(0)
        gc.collect()
        gc.disable()
        try:
            with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
                work = make()
                output = folder / "observer.memprof"
                with memprof.Profiler(level, output=output, device="cpu") if level else nullcontext():
                    for index in range(iterations):
                        _marked_step(work, mark=index == iterations - 1)
            result[level or "bare"] = _replay(prof)
        finally:
            gc.enable()
        del work, prof
    return result


def _marked_step(work: Workload, *, mark: bool) -> None:
    """One iteration with a mark after each phase."""
    work.optimizer.zero_grad()
    loss = functional.cross_entropy(work.model(work.inputs), work.targets)
    if mark:
        with record_function(_MARK + "forward"):
            pass
    loss.backward()
    if mark:
        with record_function(_MARK + "backward"):
            pass
    work.optimizer.step()
    del loss
    if mark:
        with record_function(_MARK + "step"):
            pass


_MARK = "memprof benchmark: "


def _replay(prof: torch.profiler.profile) -> dict[str, int]:
    """Sum up what the allocator reported until each mark, and the most there was at any time."""
    assert prof.profiler is not None
    events = sorted(prof.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    seen: dict[str, int] = {}
    now = peak = 0
    for event in events:
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
        elif event.name().startswith(_MARK):
            seen[event.name().removeprefix(_MARK)] = now
    return seen | {"peak": peak}


_IMPORT = """
import time, sys
begin = time.perf_counter_ns()
import memprof
print(time.perf_counter_ns() - begin, "torch" in sys.modules)
"""


def start_up(*, rounds: int) -> dict[str, Any]:
    """Wall time of `memprof --help` and of `import memprof`, beside an empty Python."""
    empty, helps, imports, with_torch = [], [], [], False
    memprof_command = Path(sys.executable).with_name("memprof")
    command = [str(memprof_command)] if memprof_command.exists() else [sys.executable, "-m", "memprof"]
    for index in range(rounds + 1):
        empty_s = _wall([sys.executable, "-c", "pass"])
        help_s = _wall([*command, "--help"])
        told = subprocess.run(
            [sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True
        ).stdout.split()
        with_torch = with_torch or told[1] == "True"
        if index:  # the first round fills the file cache
            empty.append(empty_s)
            helps.append(help_s)
            imports.append(int(told[0]) / 1e9)
    return {
        "rounds": rounds,
        "python_s": median(empty),
        "help_s": median(helps),
        "help_min_s": min(helps),
        "help_max_s": max(helps),
        "import_s": median(imports),
        "import_min_s": min(imports),
        "import_max_s": max(imports),
        "imports_torch": with_torch,
    }


def _wall(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin

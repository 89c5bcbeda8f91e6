"""Runs scripts of the corpus, plainly and under memprof, each in a child of a process that has torch loaded."""

from __future__ import annotations

import json
import os
import queue
import runpy
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tests.corpus.labels import Script
from tests.zygote import PayloadError, Zygote

TIMEOUT_S = 120
NULL_DEVICES = 2
NULL_MEMORY = "8G"

Finding = dict[str, Any]
"""A finding as in the JSON report."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of running a script.

    Attributes:
        findings: What was reported; empty after a plain run.
        stdout: What the script printed.
        stderr: What it, and memprof, printed to standard error.
        exit_status: How it ended; None where it did not end by itself.
        seconds: How long it took.
        failure: Why the run says nothing about the script (a crash, a timeout, no report), or ''.
        notes: What capture could not do.
    """

    findings: tuple[Finding, ...] = ()
    stdout: str = ""
    stderr: str = ""
    exit_status: int | None = None
    seconds: float = 0.0
    failure: str = ""
    notes: tuple[str, ...] = ()


class Runner:
    """Runs scripts in children of processes that have imported torch and memprof.

    Args:
        jobs: How many at a time.
        device: `cpu`, or `cuda` for the null device of `tests/nullcuda`.
        level: Level of recording.
    """

    def __init__(self, *, jobs: int = 2, device: str = "cpu", level: str = "auto") -> None:
        self._jobs = jobs
        self._level = level
        environment, self._env = places(device)
        self._free: queue.SimpleQueue[Zygote] = queue.SimpleQueue()
        self._zygotes = [Zygote(environment) for _ in range(jobs)]
        for zygote in self._zygotes:
            self._free.put(zygote)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        for zygote in self._zygotes:
            zygote.close()

    def analyze(self, script: Script) -> Run:
        """Run a script under `memprof analyze`."""
        return self._run(analyze_here, script, level=self._level)

    def plain(self, script: Script) -> Run:
        """Run a script as `python` would."""
        return self._run(run_here, script)

    def map(self, action: Callable[[Script], Run], scripts: Iterable[Script]) -> Iterator[Run]:
        """Run scripts beside each other; results come in the order of the scripts."""
        with ThreadPoolExecutor(self._jobs) as pool:
            yield from pool.map(action, scripts)

    def _run(self, function: Callable[..., dict[str, Any]], script: Script, **kwargs: Any) -> Run:
        zygote = self._free.get()
        start = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="memprof-corpus-") as folder:
                answer = zygote.run(
                    function,
                    {"script": str(script.path), "args": list(script.args), **kwargs},
                    env=self._env,
                    cwd=Path(folder),
                    timeout_s=TIMEOUT_S,
                )
        except PayloadError as error:
            return Run(seconds=time.monotonic() - start, failure=str(error))
        finally:
            self._free.put(zygote)
        for key in ("findings", "notes"):
            answer[key] = tuple(answer.get(key, ()))
        return Run(**answer, seconds=time.monotonic() - start)


def places(device: str) -> tuple[dict[str, str], dict[str, str]]:
    """The environment in which libraries are loaded, and what a child adds to it."""
    base = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    if device == "cpu":
        return {**base, "CUDA_VISIBLE_DEVICES": ""}, {}
    from tests.nullcuda.build import build, environment

    return environment(build(), base=base), {
        "NULLCUDA_DEVICES": str(NULL_DEVICES),
        "NULLCUDA_MEMORY": NULL_MEMORY,
    }


# ---- in the child ------------------------------------------------------------------------------


def analyze_here(script: str, args: list[str], level: str) -> dict[str, Any]:
    """Run `memprof analyze` on a script through the command line's own entry."""
    from memprof.cli import main

    report = Path("report.json").resolve()
    options = ["--format", "json", "--output", str(report), "-o", "run.memprof", "--level", level]
    sys.argv = ["memprof", "analyze", *options, script, *args]
    answer = captured(main)
    if not report.exists():
        return {**answer, "failure": f"exit status {answer['exit_status']} and no report\n{answer['stderr']}"}
    loaded = json.loads(report.read_text(encoding="utf-8"))
    return {**answer, "findings": loaded["findings"], "notes": loaded["run"]["notes"]}


def run_here(script: str, args: list[str]) -> dict[str, Any]:
    """Run a script as `python` would."""
    sys.argv = [script, *args]
    sys.path[0] = str(Path(script).parent)
    return captured(lambda: runpy.run_path(script, run_name="__main__"))


def captured(action: Callable[[], object]) -> dict[str, Any]:
    """Do something that ends as a command does, and collect what it printed."""
    files = {name: Path(name).resolve() for name in ("stdout", "stderr")}
    status = 0
    with _sent_to(files["stdout"], sys.stdout, 1), _sent_to(files["stderr"], sys.stderr, 2):
        try:
            action()
        except SystemExit as leave:
            status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
    return {
        "exit_status": status,
        **{name: file.read_text(encoding="utf-8", errors="replace") for name, file in files.items()},
    }


@contextmanager
def _sent_to(path: Path, stream: TextIO, descriptor: int) -> Iterator[None]:
    """Send a standard stream to a file, whoever writes to it."""
    stream.flush()
    saved, file = os.dup(descriptor), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, descriptor)
    os.close(file)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(saved, descriptor)
        os.close(saved)

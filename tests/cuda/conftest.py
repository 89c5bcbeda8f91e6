"""Fixtures that run something on CUDA.

CUDA is never initialised in the process of pytest: a test hands a function to `on_cuda`, which calls it in a process
of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.cuda.place import Places
from tests.zygote import REPOSITORY

TIMEOUT_S = 60


class OnCuda(Protocol):
    """Calls a function of a test module in a fresh process, and returns what it returned (by way of JSON).

    `memory=None` leaves the size of a device open; a size (`"2G"`) asks for the null device. `env` is set before the
    function is called, which is before CUDA is initialised; `at_load` is there when libraries are loaded.
    """

    def __call__(
        self,
        function: Callable[..., Any],
        *,
        devices: int = 1,
        memory: str | None = None,
        env: Mapping[str, str] | None = None,
        at_load: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        **kwargs: Any,
    ) -> Any: ...


class RunCli(Protocol):
    """Runs `python -m memprof` in a process that sees CUDA."""

    def __call__(
        self,
        args: Sequence[str],
        *,
        cwd: Path,
        devices: int = 1,
        memory: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def cuda_places() -> Iterator[Places]:
    """The devices there are."""
    places = Places()
    yield places
    places.close()


@pytest.fixture(scope="session")
def on_cuda(cuda_places: Places, tmp_path_factory: pytest.TempPathFactory) -> OnCuda:
    """See `OnCuda`."""

    def call(
        function: Callable[..., Any],
        *,
        devices: int = 1,
        memory: str | None = None,
        env: Mapping[str, str] | None = None,
        at_load: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        **kwargs: Any,
    ) -> Any:
        place = cuda_places.choose(devices, memory)
        return place.zygote(at_load or {}).run(
            function,
            kwargs,
            env={**place.settings(devices, memory), **(env or {})},
            cwd=cwd or tmp_path_factory.mktemp("cuda"),
            timeout_s=timeout_s,
        )

    return call


@pytest.fixture(scope="session")
def run_cli_on_cuda(cuda_places: Places) -> RunCli:
    """See `RunCli`."""

    def run(
        args: Sequence[str],
        *,
        cwd: Path,
        devices: int = 1,
        memory: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        place = cuda_places.choose(devices, memory)
        extra = {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "120", "NO_COLOR": "1", **place.settings(devices, memory)}
        return subprocess.run(
            [sys.executable, "-m", "memprof", *args],
            cwd=cwd,
            env=place.environment({**extra, **(env or {})}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With `--require-cuda` a test that skips itself has failed."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--require-cuda"):
        report.outcome = "failed"
        report.longrepr = f"--require-cuda, but this was skipped: {report.longrepr}"
    return report

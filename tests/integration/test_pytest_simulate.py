"""`pytest --memprof-simulate GPU`: tests that ask for CUDA run where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
import torch

kept = []
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
def test_fits():
    assert torch.ones(4, device="cuda").sum().item() == 4


@needs_cuda
@pytest.mark.memprof_leaks
def test_leaks():
    kept.append(torch.ones(1 << 20, device="cuda"))


@needs_cuda
@pytest.mark.memprof_peak("100 MiB")
def test_peaks():
    torch.empty(200 << 20, dtype=torch.uint8, device="cuda")
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", *options, "test_it.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "options",
    [
        ("--memprof-simulate", "A100-40GB"),
        ("--memprof-simulate", "A100-40GB", "-n", "1"),
        ("-o", "memprof_simulate=A100-40GB"),
    ],
    ids=["option", "xdist", "key"],
)
def test_tests_for_cuda_run_and_are_judged(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, *options)
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "4 MiB" in done.stdout
    assert "200 MiB" in done.stdout
    assert "cuda:0" in done.stdout


def test_an_unknown_gpu_stops_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, "--memprof-simulate", "Voodoo2")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "memprof_simulate" in done.stderr
    assert "Voodoo2" in done.stderr

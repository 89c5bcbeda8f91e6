"""The pytest plugin on CUDA: what it judges there is the caching allocator's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda.place import Places
from tests.zygote import REPOSITORY

pytestmark = pytest.mark.cuda

_TESTS = """
import pytest, torch
kept = []

@pytest.mark.memprof_leaks
def test_leak():
    kept.append(torch.zeros(256, 1024, device="cuda"))

@pytest.mark.memprof_leaks
def test_clean():
    torch.zeros(256, 1024, device="cuda")

@pytest.mark.memprof_peak("1 MiB", device="cuda")
def test_high():
    kept.clear()
    torch.zeros(2048, 1024, device="cuda")
"""


def test_leaks_and_peaks_are_found(cuda_places: Places, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    place = cuda_places.choose(1, None)
    # By its module, for it may not be installed here; then not a second time by its entry point.
    plugin = ("-p", "no:memprof", "-p", "memprof.integrations.pytest_plugin")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-p", "no:randomly", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env=place.environment({"PYTHONPATH": str(REPOSITORY), **place.settings(1, None)}),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "memprof: 1 MiB of tensors survive each of the 3 repetitions" in done.stdout
    assert "1 MiB in 1 tensor made at test_it.py:7" in done.stdout
    assert "memprof: peak memory 8 MiB on cuda:0 (measured) is 7 MiB above the limit of 1 MiB" in done.stdout

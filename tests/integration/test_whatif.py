"""`memprof whatif` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch

model = torch.nn.Linear(256, 256)
optimizer = torch.optim.Adam(model.parameters())
for step in range(3):
    loss = model(torch.randn(64, 256)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def memprof(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memprof", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whatif")
    (folder / "train.py").write_text(PROGRAM)
    for level in ("tensors", "steps"):
        done = memprof("analyze", "--level", level, "-o", f"{level}.memprof", "train.py", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_a_cpu_run_is_replayed_as_on_a_gpu_and_called_an_estimate(folder: Path) -> None:
    done = memprof("whatif", "tensors.memprof", "--conf", "expandable_segments:True", "--format", "json", cwd=folder)
    assert done.returncode == 0, done.stderr
    [device] = json.loads(done.stdout)["devices"]
    assert [one["settings"] for one in device["outcomes"]] == ["replayed", "expandable_segments:True"]
    replayed = device["outcomes"][0]
    assert replayed["source"] == "estimated"
    # parameters, two Adam moments and gradients alone are 4 times 257 KiB
    assert replayed["peak_reserved_bytes"] >= replayed["peak_allocated_bytes"] > 4 * 257 * 1024
    assert "every storage of this CPU run" in device["notes"][0]


def test_a_gpu_that_is_too_small_is_an_answer(folder: Path) -> None:
    done = memprof("whatif", "tensors.memprof", "--gpu", "1MiB", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "out of memory" in done.stdout
    assert "NO" in done.stdout


def test_the_answer_goes_into_a_file(folder: Path) -> None:
    done = memprof("whatif", "tensors.memprof", "--advise", "--output", "answer.txt", cwd=folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "keep the settings as they are" in (folder / "answer.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["steps.memprof"], "steps.memprof does not say what was allocated when: record with --level"),
        (["tensors.memprof", "--gpu", "Voodoo 2"], "no GPU 'Voodoo 2' is known"),
        (["tensors.memprof", "--conf", "split:3"], "'split' is not an allocator setting"),
        (["none.memprof"], "none.memprof"),
    ],
)
def test_errors_are_one_line(folder: Path, arguments: list[str], said: str) -> None:
    done = memprof("whatif", *arguments, cwd=folder)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.startswith("memprof: ")
    assert len(done.stderr.splitlines()) == 1

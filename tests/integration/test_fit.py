"""`memprof fit`: the largest batch, from simulated runs of a script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import argparse, os
import torch

parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int, default=int(os.environ.get("BATCH_SIZE", 0)))
batch = parser.parse_args().batch_size
model = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 8)).cuda()
optimizer = torch.optim.Adam(model.parameters())
for step in range(5):
    loss = model(torch.randn(batch, 256, device="cuda")).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def fit(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(text)
    command = [sys.executable, "-m", "memprof", "fit", *options, "train.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("parameter", ["--batch-size {}", "BATCH_SIZE={}"])
def test_the_largest_batch_is_found_and_one_step_more_was_tried(tmp_path: Path, parameter: str) -> None:
    options = ("--gpu", "128MiB", "--param", parameter, "--from", "1024", "--step", "1024", "--format", "json")
    done = fit(tmp_path, SCRIPT, *options)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (found,) = document["gpus"]
    trials = {trial["value"]: trial for trial in found["trials"]}
    assert found["source"] == "simulated"
    assert found["bounded"]
    assert trials[found["largest"]]["needed_bytes"] <= found["limit_bytes"]
    assert not trials[found["largest"] + 1024]["fits"]


def test_nothing_fits(tmp_path: Path) -> None:
    done = fit(tmp_path, SCRIPT, "--gpu", "8MiB", "--param", "batch-size", "--from", "64")
    assert done.returncode == 1
    assert "none" in done.stdout
    assert "out of memory" in done.stdout


def test_an_error_of_the_script_is_told(tmp_path: Path) -> None:
    done = fit(tmp_path, "raise ValueError('no data')", "--gpu", "8GiB", "--param", "batch-size")
    assert done.returncode == 2
    assert "failed for another reason than memory" in done.stderr
    assert "no data" in done.stderr


def test_a_script_without_cuda_is_told(tmp_path: Path) -> None:
    done = fit(tmp_path, "import torch\ntorch.ones(3)", "--gpu", "8GiB", "--param", "batch-size")
    assert done.returncode == 2
    assert "put nothing on CUDA" in done.stderr


GROWING = """
import sys
import torch

batch = int(sys.argv[sys.argv.index("--batch-size") + 1])
model = torch.nn.Linear(256, 256).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for length in range(1, 9):
    loss = model(torch.randn(batch * length * length, 256, device="cuda")).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    model(torch.randn(batch * 256, 256, device="cuda"))
"""


def test_a_run_that_still_rises_is_told_and_a_whole_run_sees_the_worst(tmp_path: Path) -> None:
    options = ("--gpu", "256MiB", "--param", "batch-size", "--from", "64", "--step", "64", "--dry")
    cut = fit(tmp_path, GROWING, *options, "--format", "json")
    whole = fit(tmp_path, GROWING, *options, "--format", "json", "--whole-run")
    largest = []
    for done, rising in ((cut, True), (whole, False)):
        assert done.returncode == 0, done.stderr
        (found,) = json.loads(done.stdout)["gpus"]
        best = next(trial for trial in found["trials"] if trial["value"] == found["largest"])
        assert best["rising"] is rising
        largest.append(found["largest"])
    assert largest[1] < largest[0] / 4
    table = fit(tmp_path, GROWING, *options, "--to", "64")
    assert "Raise --max-iterations" in " ".join(table.stdout.split())

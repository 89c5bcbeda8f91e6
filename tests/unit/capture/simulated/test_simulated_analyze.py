"""`memprof analyze --simulate GPU`: a script for CUDA is analysed where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LEAK = """
import torch

device = "cuda"
assert torch.cuda.is_available()
model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 8)).to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
history = []
for step in range(8):
    rows = torch.randn(64, 256, device=device)
    loss = model(rows).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss * 1)
print("allocated", torch.cuda.memory_allocated())
"""
TOO_BIG = """
import torch

kept = []
for step in range(100):
    kept.append(torch.empty(100 << 20, dtype=torch.uint8, device="cuda"))
"""
TOO_MUCH_STATE = """
import torch

model = torch.nn.Linear(8192, 8192, device="cuda")
optimizer = torch.optim.Adam(model.parameters())
model(torch.randn(8, 8192, device="cuda")).sum().backward()
optimizer.step()
"""
LARGE = """
import torch

model = torch.nn.Sequential(*[torch.nn.Linear(4096, 4096) for _ in range(8)]).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(3):
    loss = model(torch.randn(64, 4096, device="cuda")).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("loss", loss.item())"""


def analyze(folder: Path, text: str, *options: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    """Run `memprof analyze` on a script; its report as JSON."""
    (folder / "train.py").write_text(text)
    report = folder / "report.json"
    command = [sys.executable, "-m", "memprof", "analyze", *options, "--format", "json", "--output", str(report)]
    done = subprocess.run([*command, "train.py"], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert report.exists(), done.stderr
    return done, json.loads(report.read_text())


def test_a_leak_on_cuda_is_found(tmp_path: Path) -> None:
    done, report = analyze(tmp_path, LEAK, "--simulate", "A100-40GB")
    assert "allocated" in done.stdout, done.stderr
    assert report["run"]["simulated_gpu"] == "A100-40GB"
    assert report["run"]["main_device"] == "cuda:0"
    peak = next(peak for peak in report["peak"] if peak["device"] == "cuda:0")
    assert peak["source"] == "simulated"
    leak = next(finding for finding in report["findings"] if finding["code"] == "MP102")
    assert leak["location"]["line"] == 15


def test_out_of_memory_ends_the_script_as_on_the_gpu(tmp_path: Path) -> None:
    done, report = analyze(tmp_path, TOO_BIG, "--simulate", "2GiB")
    assert done.returncode != 0
    assert "CUDA out of memory. Tried to allocate 100.00 MiB" in done.stderr
    assert [oom["source"] for oom in report["ooms"]] == ["simulated"]
    assert any(finding["code"] == "MP401" for finding in report["findings"])


def test_out_of_memory_ends_in_the_script(tmp_path: Path) -> None:
    done, _ = analyze(tmp_path, TOO_BIG, "--simulate", "2GiB")
    traceback, _, error = done.stderr.partition("torch.OutOfMemoryError")
    assert error
    assert traceback.count("File ") == 1
    assert "train.py" in traceback


def test_state_of_a_step_that_did_not_end_is_state(tmp_path: Path) -> None:
    _, report = analyze(tmp_path, TOO_MUCH_STATE, "--simulate", "1000MiB", "--dry")
    found = next(finding for finding in report["findings"] if finding["code"] == "MP401")
    assert "optimizer_state" in found["holder"]
    assert found["remedies"][0]["slug"] == "lean_optimizer"
    assert not any(finding["code"] == "MP304" and finding["device"] == "cpu" for finding in report["findings"])


def test_the_cpu_is_not_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LEAK)
    command = [sys.executable, "-m", "memprof", "analyze", "--simulate", "8GiB", "--device", "cpu", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--simulate is about the memory of a GPU" in done.stderr


@pytest.mark.parametrize("gpu", ["A9000-XL", "12 parsecs"])
def test_an_unknown_gpu_is_refused(tmp_path: Path, gpu: str) -> None:
    (tmp_path / "train.py").write_text(LEAK)
    command = [sys.executable, "-m", "memprof", "analyze", "--simulate", gpu, "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert gpu in done.stderr
    assert "Traceback" not in done.stderr


def test_analyze_says_what_was_not_computed(tmp_path: Path) -> None:
    done, report = analyze(tmp_path, LARGE, "--simulate", "A100-40GB", "--dry")
    assert done.returncode == 0, done.stderr
    assert report["run"]["dry"] is True
    assert any(".item() (float(), int(), format)" in note and "3 times" in note for note in report["run"]["notes"])


def test_analyze_says_what_stopped_it(tmp_path: Path) -> None:
    script = LARGE.replace("    loss.backward()\n", "    if loss > 3:\n        break\n    loss.backward()\n")
    done, report = analyze(tmp_path, script, "--simulate", "A100-40GB", "--dry")
    assert done.returncode == 1
    assert "DryRunStoppedError: the dry run cannot go on at the truth of a tensor at" in done.stderr
    assert "train.py:9" in done.stderr
    assert any("the dry run stopped at the truth of a tensor" in note for note in report["run"]["notes"])

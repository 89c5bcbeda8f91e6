"""CUDA as users meet it: errors, histories of their own, overflow, profilers in profilers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cuda import payloads


@pytest.mark.parametrize("level", ["steps", "auto", "blocks", "tensors"])
def test_a_caught_out_of_memory_error_is_described(on_cuda: Callable[..., Any], level: str) -> None:
    found = on_cuda(payloads.out_of_memory, level=level, memory="8G")
    assert found["caught"] == len(found["ooms"]) == 2
    oom = found["ooms"][0]
    assert (oom["device"], oom["requested"], oom["file"]) == ("cuda:0", 4 << 40, "payloads.py")
    source = Path(payloads.__file__).read_text().splitlines()
    assert "torch.empty(1 << 20 if" in source[oom["line"] - 1]
    assert found["iterations"] >= 6


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_user_who_records_history_is_not_disturbed(on_cuda: Callable[..., Any], when: str) -> None:
    found = on_cuda(payloads.own_history, when=when)
    assert found["enabled"]
    assert found["allocations"] == (4 if when == "before" else 2)
    assert any("history" in note for note in found["notes"])
    assert found["restored"] == "_cuda_record_memory_history"


def test_an_overflowing_history_is_told_and_figures_stay_right(on_cuda: Callable[..., Any]) -> None:
    found = on_cuda(payloads.overflow)
    assert found["allocated"] == found["rows"]
    assert any("overflowed" in note for note in found["notes"])


def test_nested_profilers_leave_nothing_behind(on_cuda: Callable[..., Any]) -> None:
    found = on_cuda(payloads.nested, level="blocks")
    assert found["during"]
    assert not found["after"]
    assert found["peak"] == 4096


LEAKY = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
kept = []
for _ in range(8):
    loss = model(torch.randn(64, 512, device="cuda")).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    kept.append(model(torch.randn(64, 512, device="cuda")))
"""


@pytest.mark.parametrize("level", ["auto", "tensors"])
def test_analyze_finds_the_leak_of_a_script_on_cuda(run_cli_on_cuda: Any, tmp_path: Path, level: str) -> None:
    (tmp_path / "train.py").write_text(LEAKY)
    options = ["--level", level, "--format", "json", "--output", "report.json"]
    done = run_cli_on_cuda(["analyze", *options, "train.py"], cwd=tmp_path, memory="4G")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["run"]["main_device"] == "cuda:0"
    leaks = [finding for finding in report["findings"] if finding["kind"] == "leak"]
    assert [finding["code"] for finding in leaks] == ["MP102"]
    assert leaks[0]["location"]["line"] == 11
    assert "kept" in leaks[0]["holder"]

"""CUDA as users meet it: errors, histories of their own, overflow, profilers in profilers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import memprof
from memprof.record.events import TickFlag
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


def test_a_forked_child_that_uses_cuda_is_left_alone(on_cuda: Callable[..., Any]) -> None:
    found = on_cuda(payloads.forked, level="blocks")
    assert found["child"] == "False True"
    assert found["parent"]
    assert "cuda:0" in found["devices"]


def test_an_overflowing_history_is_told_and_figures_stay_right(on_cuda: Callable[..., Any]) -> None:
    found = on_cuda(payloads.overflow)
    assert found["allocated"] == found["rows"]
    assert any("overflowed" in note for note in found["notes"])


def test_drains_of_the_history_are_rare_and_lose_nothing(on_cuda: Callable[..., Any]) -> None:
    rare, often = (on_cuda(payloads.drained, iterations=12, drain_ns=drain_ns) for drain_ns in (1 << 62, 0))
    assert rare["snapshots"] == 1  # what the devices held when recording began
    assert often["snapshots"] == 14  # and after the set-up and each iteration
    for found in (rare, often):
        assert found["ticks_with_blocks"] == [True] * 14
        assert found["allocated"] == found["rows"]
        source = Path(payloads.__file__).read_text().splitlines()
        assert [source[line - 1].strip() for line in found["backward_lines"]] == [
            "model(x).sum().backward()",
            "model(x).mean().backward()",
        ]


def test_what_backward_allocates_is_told_by_module_and_line_without_a_dispatch_mode(
    on_cuda: Callable[..., Any],
) -> None:
    watched = on_cuda(payloads.backward_places, level="tensors", drain_ns=0)
    # With the marks of every backward, and with those of the first few.
    marked, followed = (
        on_cuda(payloads.backward_places, level="blocks", drain_ns=drain_ns) for drain_ns in (1 << 62, 0)
    )
    assert followed == marked
    assert set(marked["modules"]) == {"", "0", "0.up", "0.down", "1", "2", "2.up", "2.down"}
    for kind in ("modules", "lines"):
        # Workspaces of kernels are in no tensor, so that no operator tells whose they are.
        assert all(marked[kind][key] >= nbytes for key, nbytes in watched[kind].items() if key)
    for elementwise in ("0", "1", "2"):
        assert marked["modules"][elementwise] == watched["modules"][elementwise]
    assert marked["notes"] == []
    source = Path(payloads.__file__).read_text().splitlines()
    assert {source[int(line) - 1].strip() for line in marked["lines"]} == {
        "y = torch.nn.functional.softplus(self.up(x))",
        "z: torch.Tensor = self.down(y) + x",
        "model(x).square().mean().backward()",
    }


def test_backward_on_two_devices_is_told_by_module(on_cuda: Callable[..., Any]) -> None:
    found = on_cuda(payloads.backward_places_on_two_devices, devices=2)
    # The gradient of the copy between the devices is the outer module's own.
    assert set(found["cuda:0"]) == {"", "first.0", "first.1"}
    assert set(found["cuda:1"]) - {""} == {"second.0", "second.1"}
    assert found["cuda:0"]["first.1"] == 4096 * 1024 * 4
    assert found["cuda:1"]["second.1"] == 4096 * 512 * 4


KILLED = """
import os, signal, torch
from memprof.capture import blocks
model = torch.nn.Linear(256, 256).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.ones(64, 256, device="cuda")
for i in range(9):
    blocks.DRAIN_NS = 0 if i < 5 else 1 << 62
    model(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    print(torch.cuda.memory_allocated(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_the_events_since_the_last_drain_and_no_iteration(
    run_cli_on_cuda: Any, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(KILLED)
    done = run_cli_on_cuda(["analyze", "--level", "blocks", "train.py"], cwd=tmp_path)
    assert done.returncode == -9, done.stderr
    with memprof.open_recording(tmp_path / "train.memprof") as recording:
        known = [bool(tick.flags & TickFlag.BLOCKS) for tick in recording.ticks]
        log = recording.block_log()
        assert log is not None
        assert log.ticks.max() == sum(known) - 1
        rows = memprof.diagnose(recording).model.iterations
    assert known == [True] * 5 + [False] * (len(known) - 5)
    trained = [row for row in rows if row.kind == "train"]
    assert len(trained) == 8  # the ninth ends where the next begins
    ends = [int(line) for line in done.stdout.split()[:8]]
    assert [row.devices["cuda:0"].allocated_bytes_end for row in trained] == ends
    assert {row.devices["cuda:0"].source.value for row in trained} == {"measured"}


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

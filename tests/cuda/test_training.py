"""`memprof analyze` on training of every kind: healthy runs have no leak, and leaks are found at their line."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cuda import workloads
from tests.cuda.conftest import OnCuda, RunCli
from tests.cuda.workloads import ITERS, WORKLOADS

LEAKS = {
    "leak_history": ("MP102", "history.append(m(x))"),
    "leak_loss_sum": ("MP101", "loss_sum += loss"),
}
SCRIPT = """
import torch
from tests.cuda.workloads import WORKLOADS
workload = WORKLOADS[{name!r}]
torch.backends.cudnn.enabled = workload.settings.get("cudnn", True)
for _ in workload("cuda"):
    pass
"""


def analyze(name: str, level: str) -> dict[str, Any]:
    """Run `memprof analyze` in this process."""
    from memprof.cli import main

    Path("train.py").write_text(SCRIPT.format(name=name), encoding="utf-8")
    sys.argv = ["memprof", "analyze", "--level", level, "--format", "json", "--output", "report.json", "train.py"]
    try:
        main()
    except SystemExit as end:
        status = end.code
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    return {"status": status, **{key: report[key] for key in ("run", "trend", "findings", "ooms", "iterations")}}


@pytest.fixture(scope="module")
def analyzed(on_cuda: OnCuda) -> Any:
    @functools.cache
    def call(name: str, level: str) -> dict[str, Any]:
        settings = WORKLOADS[name].settings
        env = dict(settings.get("env", {}))
        memory = env.pop("NULLCUDA_MEMORY", "40326M")
        return on_cuda(analyze, devices=settings.get("devices", 1), memory=memory, env=env, name=name, level=level)

    return call


def leaks(report: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in report["findings"] if finding["kind"] == "leak"]


# What makes allocation on CUDA unlike allocation on the CPU.
@pytest.mark.parametrize("level", ["auto", "blocks", "tensors"])
@pytest.mark.parametrize(
    "name",
    [
        *("mlp_amp", "checkpoint_mlp", "lstm_native", "data_parallel", "cuda_graph", "pinned_loader", "side_stream"),
        "variable_length_expandable",
    ],
)
def test_a_healthy_run_has_no_leak(analyzed: Any, name: str, level: str) -> None:
    report = analyzed(name, level)
    assert report["status"] == 0
    assert leaks(report) == []
    assert report["run"]["main_device"].startswith("cuda:")
    assert len(report["iterations"]) >= WORKLOADS[name].settings.get("iters", ITERS)


@pytest.mark.parametrize("level", ["auto", "tensors"])
@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_found_with_its_line(analyzed: Any, name: str, level: str) -> None:
    code, source = LEAKS[name]
    report = analyzed(name, level)
    assert leaks(report) == [code]
    (finding,) = (finding for finding in report["findings"] if finding["kind"] == "leak")
    assert finding["device"] == "cuda:0"
    lines = Path(workloads.__file__).read_text(encoding="utf-8").splitlines()
    places = [finding["location"], *finding["related"]]
    assert {Path(place["file"]).name for place in places} == {"workloads.py"}
    assert any(source in lines[place["line"] - 1] for place in places)


@pytest.mark.parametrize("level", ["steps", "blocks"])
def test_counters_alone_show_that_memory_grows(analyzed: Any, level: str) -> None:
    trends = {trend["device"]: trend for trend in analyzed("leak_history", level)["trend"]}
    assert trends["cuda:0"]["bytes_per_iteration"] > 0
    assert trends["cuda:0"]["rising_share"] == 1.0


def test_running_out_of_memory_is_told(analyzed: Any) -> None:
    report = analyzed("oom_retry", "auto")
    assert len(report["ooms"]) == 1
    assert report["ooms"][0]["device"] == "cuda:0"


def test_the_command_works_where_it_is_started_as_usual(run_cli_on_cuda: RunCli, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(name="leak_history"), encoding="utf-8")
    done = run_cli_on_cuda(["analyze", "train.py"], cwd=tmp_path, memory="4G")
    assert done.returncode == 0, done.stderr
    assert "MP102" in done.stdout
    assert "cuda:0" in done.stdout

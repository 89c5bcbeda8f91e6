"""A run takes the memory it takes without memprof, and its iterations are found without help."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.cuda.conftest import OnCuda
from tests.cuda.workloads import ITERS, WORKLOADS


def run(name: str, level: str | None) -> dict[str, Any]:
    """Run a workload as a script would, with a profiler around it or without."""
    import contextlib

    import torch

    import memprof

    workload = WORKLOADS[name]
    torch.backends.cudnn.enabled = workload.settings.get("cudnn", True)
    torch.manual_seed(0)
    with contextlib.nullcontext() if level is None else memprof.Profiler(level) as profiler:
        for _ in workload("cuda"):
            pass
    devices = range(workload.settings.get("devices", 1))
    found: dict[str, Any] = {
        "allocated": [torch.cuda.max_memory_allocated(device) for device in devices],
        "reserved": [torch.cuda.max_memory_reserved(device) for device in devices],
    }
    if profiler is not None:
        model = memprof.diagnose(profiler.recording).model
        peaks = [model.peaks[f"cuda:{device}"] for device in devices]
        found["peaks"] = [peak.allocated_bytes for peak in peaks]
        found["sources"] = [peak.source.value for peak in peaks]
        found["iterations"] = [row.kind for row in model.iterations]
        found["leaks"] = [finding.code for finding in profiler.findings if finding.kind == "leak"]
        found["notes"] = list(model.run.notes)
    return found


@pytest.fixture(scope="module")
def run_workload(on_cuda: OnCuda) -> Any:
    @functools.cache
    def call(name: str, level: str | None) -> dict[str, Any]:
        settings = WORKLOADS[name].settings
        env = dict(settings.get("env", {}))
        memory = env.pop("NULLCUDA_MEMORY", "40326M")
        return on_cuda(run, devices=settings.get("devices", 1), memory=memory, env=env, name=name, level=level)

    return call


# Its replicas run in threads that take memory in whatever order they come.
VARYING = {"data_parallel"}


@pytest.mark.parametrize("level", ["steps", "auto", "tensors"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_profiled_run_takes_the_same_memory(run_workload: Any, name: str, level: str) -> None:
    alone, profiled = run_workload(name, None), run_workload(name, level)
    if name in VARYING:
        assert profiled["allocated"] == pytest.approx(alone["allocated"], rel=0.01)
        assert profiled["reserved"] == pytest.approx(alone["reserved"], rel=0.05)
    else:
        assert profiled["allocated"] == alone["allocated"]
        assert profiled["reserved"] == alone["reserved"]


@pytest.mark.parametrize("level", ["steps", "auto"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_the_peak_is_that_of_the_allocator(run_workload: Any, name: str, level: str) -> None:
    profiled = run_workload(name, level)
    assert profiled["peaks"] == profiled["allocated"]
    assert set(profiled["sources"]) == {"measured"}
    assert profiled["notes"] == []


@pytest.mark.parametrize("name", WORKLOADS)
def test_only_what_leaks_is_said_to_leak(run_workload: Any, name: str) -> None:
    expected = {"leak_history": ["MP102"], "leak_loss_sum": ["MP101"]}
    assert run_workload(name, "auto")["leaks"] == expected.get(name, [])


@pytest.mark.parametrize("level", ["steps", "auto"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_iterations_are_found_without_help(run_workload: Any, name: str, level: str) -> None:
    kind = "evaluate" if name == "resnet18_eval_grad" else "train"
    found = run_workload(name, level)["iterations"]
    assert [row for row in found if row != "other"] == [kind] * WORKLOADS[name].settings.get("iters", ITERS)

"""The device the tests run on is what they take it for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.cuda import payloads
from tests.cuda.cuda_process import CudaProcess


def test_the_device_has_memory_and_runs_out_of_it(on_cuda: Callable[..., Any], cuda_process: CudaProcess) -> None:
    found = on_cuda(payloads.device_facts, devices=1, memory="3G")
    assert found["copied"] == 10
    assert found["free"] <= found["total"] - found["reserved"]
    assert "Tried to allocate" in found["oom"]
    if not cuda_process.gpu:
        assert (found["total"], found["count"], found["nvml_count"]) == (3 << 30, 1, 1)
        assert found["name"].startswith("NULL ")


def test_settings_of_the_environment_reach_the_allocator(on_cuda: Callable[..., Any]) -> None:
    found = on_cuda(payloads.device_facts, env={"PYTORCH_ALLOC_CONF": "expandable_segments:True"})
    assert found["settings"]["expandable_segments"] is True

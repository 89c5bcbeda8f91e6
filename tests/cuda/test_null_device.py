"""The null device: a stand-in has to be right before anything can be measured on it."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest

from tests.cuda.conftest import OnCuda
from tests.zygote import PayloadError

MIB = 1 << 20


def driver_used(device: int = 0) -> int:
    """What the null driver has handed out."""
    used = ctypes.CDLL(None).nullcuda_used
    used.restype = ctypes.c_size_t
    return int(used(device))


def account() -> list[dict[str, int]]:
    import torch

    rows = []

    def note() -> None:
        free, total = torch.cuda.mem_get_info()
        rows.append(
            {
                "allocated": torch.cuda.memory_allocated(),
                "reserved": torch.cuda.memory_reserved(),
                "driver": driver_used(),
                "taken": total - free,
            }
        )

    torch.cuda.init()
    note()
    small = torch.empty(1000, dtype=torch.uint8, device="cuda")
    note()
    large = torch.empty(30 * MIB, dtype=torch.uint8, device="cuda")
    note()
    del small, large
    note()
    torch.cuda.empty_cache()
    note()
    return rows


def test_memory_is_accounted_as_the_caching_allocator_asks_for_it(on_cuda: OnCuda) -> None:
    rows = on_cuda(account, memory="1G")
    assert [row["allocated"] for row in rows] == [0, 1024, 30 * MIB + 1024, 0, 0]
    assert [row["reserved"] for row in rows] == [0, 2 * MIB, 32 * MIB, 32 * MIB, 0]
    for row in rows:
        assert row["driver"] == row["taken"] == row["reserved"]


def copies() -> dict[str, Any]:
    import torch

    host = torch.arange(1 << 20, dtype=torch.int32)
    device = host.to("cuda")
    pinned = host.pin_memory()
    return {
        "round trip": torch.equal(device.cpu(), host),
        "clone": torch.equal(device.clone().cpu(), host),
        "pinned": pinned.is_pinned() and torch.equal(pinned.to("cuda", non_blocking=True).cpu(), host),
        "strided": torch.equal(device[100:200].cpu(), host[100:200]),
        "zeros": int(torch.zeros(100, device="cuda").sum().item()),
    }


def test_copies_move_data(on_cuda: OnCuda) -> None:
    assert on_cuda(copies, memory="1G") == {
        "round trip": True,
        "clone": True,
        "pinned": True,
        "strided": True,
        "zeros": 0,
    }


def run_out() -> dict[str, Any]:
    import torch

    kept = torch.empty(700 * MIB, dtype=torch.uint8, device="cuda")
    try:
        torch.empty(700 * MIB, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        message = str(error)
    stats = torch.cuda.memory_stats()
    torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")  # it can go on
    return {"message": message, "ooms": stats["num_ooms"], "retries": stats["num_alloc_retries"], "kept": kept.nbytes}


def test_a_full_device_says_what_was_asked_for_and_what_is_free(on_cuda: OnCuda) -> None:
    found = on_cuda(run_out, memory="1G")
    assert "Tried to allocate 700.00 MiB" in found["message"]
    assert "total capacity of 1024.00 MiB of which 324.00 MiB is free" in found["message"]
    assert (found["ooms"], found["retries"]) == (1, 1)


def two_devices() -> dict[str, Any]:
    import torch

    first = torch.arange(10 * MIB, dtype=torch.uint8, device="cpu").to("cuda:0")
    second = first.to("cuda:1")
    with torch.cuda.device(1):
        third = torch.empty(4 * MIB, dtype=torch.uint8, device="cuda")
    return {
        "count": torch.cuda.device_count(),
        "allocated": [torch.cuda.memory_allocated(device) for device in range(2)],
        "equal": torch.equal(first.cpu(), second.cpu()),
        "where": third.device.index,
        "driver": [driver_used(device) for device in range(2)],
        "reserved": [torch.cuda.memory_reserved(device) for device in range(2)],
    }


def test_two_devices_have_accounts_of_their_own(on_cuda: OnCuda) -> None:
    found = on_cuda(two_devices, devices=2, memory="1G")
    assert (found["count"], found["where"], found["equal"]) == (2, 1, True)
    assert found["allocated"] == [10 * MIB, 14 * MIB]
    assert found["driver"] == found["reserved"]


def visible() -> list[int]:
    import torch

    return [torch.cuda.device_count(), torch.cuda.mem_get_info()[1]]


def test_settings_of_a_request_reach_the_device_and_no_later_request(on_cuda: OnCuda) -> None:
    assert on_cuda(visible, devices=3, memory="2G", env={"CUDA_VISIBLE_DEVICES": "0,2"}) == [2, 2048 * MIB]
    assert on_cuda(visible, devices=4, memory="512M") == [4, 512 * MIB]


def history() -> dict[str, Any]:
    import torch

    torch.cuda.memory._record_memory_history(stacks="python")
    x = torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
    address = x.data_ptr()
    del x
    snapshot = torch.cuda.memory._snapshot()
    trace = snapshot["device_traces"][0]
    return {
        "actions": [event["action"] for event in trace],
        "sizes": [event["size"] for event in trace],
        "same": {event["addr"] for event in trace if "segment" not in event["action"]} == {address},
        "line": any(frame["name"] == "history" for event in trace for frame in event["frames"]),
        "segments": [segment["total_size"] for segment in snapshot["segments"]],
    }


def test_the_allocator_records_its_history(on_cuda: OnCuda) -> None:
    assert on_cuda(history, memory="1G") == {
        "actions": ["segment_alloc", "alloc", "free_requested", "free_completed"],
        "sizes": [20 * MIB, 3 * MIB, 3 * MIB, 3 * MIB],
        "same": True,
        "line": True,
        "segments": [20 * MIB],
    }


def graph() -> dict[str, Any]:
    import torch

    x = torch.zeros(MIB, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 2 + 1
    before = torch.cuda.memory_allocated()
    graph.replay()
    torch.cuda.synchronize()
    pools = {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}
    return {"pools": len(pools), "grown": torch.cuda.memory_allocated() - before, "bytes": y.nbytes}


def test_a_cuda_graph_has_a_pool_of_its_own(on_cuda: OnCuda) -> None:
    assert on_cuda(graph, memory="1G") == {"pools": 2, "grown": 0, "bytes": 4 * MIB}


def expandable() -> dict[str, Any]:
    import torch

    sizes = []
    kept = []
    for _ in range(3):
        kept.append(torch.empty(30 * MIB, dtype=torch.uint8, device="cuda"))
        segments = torch.cuda.memory_snapshot()
        sizes.append([segment["total_size"] for segment in segments])
    flags = [segment["is_expandable"] for segment in segments]
    kept.clear()
    torch.cuda.empty_cache()
    return {"sizes": sizes, "flags": flags, "driver": driver_used()}


@pytest.mark.parametrize("variable", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_expandable_segments_grow_and_shrink(on_cuda: OnCuda, variable: str) -> None:
    found = on_cuda(expandable, memory="1G", env={variable: "expandable_segments:True"})
    assert found == {"sizes": [[40 * MIB], [60 * MIB], [100 * MIB]], "flags": [True], "driver": 0}


def nvml() -> dict[str, Any]:
    import pynvml
    import torch

    x = torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(1)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return {
        "count": pynvml.nvmlDeviceGetCount(),
        "used": memory.used,
        "total": memory.total,
        "processes": {str(process.pid): process.usedGpuMemory for process in processes},
        "pid": os.getpid(),
        "bytes": x.nbytes,
        "uuids": [pynvml.nvmlDeviceGetUUID(handle), f"GPU-{torch.cuda.get_device_properties(0).uuid}"],
    }


def test_nvml_and_the_runtime_agree(on_cuda: OnCuda) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "1", "NULLCUDA_OTHER": "200M", "NULLCUDA_CONTEXT": "10M"}
    found = on_cuda(nvml, devices=2, memory="1G", env=env)
    assert (found["count"], found["total"]) == (2, 1024 * MIB)
    assert found["used"] == (100 + 200 + 10) * MIB
    assert found["processes"] == {str(found["pid"]): 110 * MIB, "1": 200 * MIB}
    assert found["uuids"][0] == found["uuids"][1]


def compute() -> float:
    import torch

    x = torch.full((100,), 3.0, device="cuda")
    return float((x * x).sum().item())


def test_kernels_do_not_run(on_cuda: OnCuda) -> None:
    assert on_cuda(compute, memory="1G") == 0.0


def fail(how: str) -> None:
    print("before it failed")
    if how == "raise":
        raise ValueError("as planned")
    if how == "crash":
        os.abort()
    import time

    time.sleep(60)


@pytest.mark.parametrize(
    ("how", "said"), [("raise", "ValueError: as planned"), ("crash", "died of SIGABRT"), ("hang", "longer than 1 s")]
)
def test_a_payload_that_fails_is_told_with_its_output_and_hurts_no_other(on_cuda: OnCuda, how: str, said: str) -> None:
    with pytest.raises(PayloadError, match=said) as failure:
        on_cuda(fail, memory="1G", timeout_s=1, how=how)
    if how != "crash":  # what was printed is lost in a buffer
        assert how == "hang" or "before it failed" in str(failure.value)
    assert on_cuda(visible, memory="512M") == [1, 512 * MIB]

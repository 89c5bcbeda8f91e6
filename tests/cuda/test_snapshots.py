"""PyTorch's own snapshots: what memprof says of them is what the allocator said when they were taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.cuda.workloads import WORKLOADS

MIB = 1 << 20
NAMES = (
    "mlp_adam",
    "gpt_tiny",
    "variable_length_expandable",
    "side_stream",
    "data_parallel",
    "cuda_graph",
    "empty_cache",
)


def _dump_and_read(kind: str) -> Any:
    import torch

    import memprof
    from memprof.record.files import open_file

    path = os.path.join(os.getcwd(), f"{kind}.pickle")
    torch.cuda.memory._dump_snapshot(path)
    with open_file(path) as view:
        return memprof.diagnose(view)


def snapshot_after(name: str) -> list[dict[str, Any]]:
    """Run a workload with history on, and look at the snapshot of it."""
    import torch

    workload = WORKLOADS[name]
    torch.backends.cudnn.enabled = workload.settings.get("cudnn", True)
    torch.cuda.memory._record_memory_history(max_entries=1_000_000, stacks="python")
    running = workload("cuda")
    for _ in range(1 + workload.settings.get("iters", 3)):
        next(running)
    stats = [torch.cuda.memory_stats(device) for device in range(workload.settings.get("devices", 1))]
    model = _dump_and_read(name).model
    found = []
    for device, of_device in enumerate(stats):
        [totals] = [item for item in model.snapshot if item.device == f"cuda:{device}"]
        peak = model.peaks[f"cuda:{device}"]
        alive = [item for item in model.storages.values() if item.device == totals.device and item.death_ns is None]
        found.append(
            {
                "said": [
                    totals.allocated_bytes,
                    totals.active_bytes,
                    totals.requested_bytes,
                    totals.reserved_bytes,
                    totals.stranded_bytes,
                    totals.peak_reserved_bytes,
                    peak.allocated_bytes,
                    sum(item.nbytes for item in alive),
                ],
                "real": [
                    of_device["allocated_bytes.all.current"],
                    of_device["active_bytes.all.current"],
                    of_device["requested_bytes.all.current"],
                    of_device["reserved_bytes.all.current"],
                    of_device["inactive_split_bytes.all.current"],
                    of_device["reserved_bytes.all.peak"],
                    of_device["allocated_bytes.all.peak"],
                    of_device["allocated_bytes.all.current"],
                ],
                "complete": totals.trace_complete,
            }
        )
    running.close()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_totals_and_peak_are_those_of_memory_stats(on_cuda: Callable[..., Any], name: str) -> None:
    devices = WORKLOADS[name].settings.get("devices", 1)
    for found in on_cuda(snapshot_after, name=name, memory="16G", devices=devices):
        assert found["complete"]
        assert found["said"] == found["real"]


def error_in(kind: str) -> dict[str, Any]:
    """Run out of memory below a frame that holds tensors, and take the snapshot when that has been left."""
    import torch

    seen: list[dict[str, int]] = []

    def observe(*_: Any) -> None:
        stats = torch.cuda.memory_stats()
        seen.append(
            {
                "allocated": stats["allocated_bytes.all.current"],
                "reserved": stats["reserved_bytes.all.current"],
                "stranded": stats["inactive_split_bytes.all.current"],
            }
        )

    kept = []

    def fill() -> None:
        inside = []
        for i in range(1000):
            kept.append(torch.empty(2 * MIB, dtype=torch.uint8, device="cuda"))
            large = 18 if kind == "cut up" else 24 + 8 * (i % 3)  # with the small one it fills a segment of 20 MiB
            inside.append(torch.empty(large * MIB, dtype=torch.uint8, device="cuda"))
            if kind == "cut up" and torch.cuda.memory_reserved() > 1600 * MIB:
                inside.clear()
                torch.empty(512 * MIB, dtype=torch.uint8, device="cuda")

    torch.cuda.init()
    kept.append(torch.empty(64 * MIB, dtype=torch.uint8, device="cuda"))
    if kind != "midway":
        kept.clear()
        torch.cuda.empty_cache()
    torch.cuda.memory._record_memory_history(max_entries=100_000, stacks="python")
    torch._C._cuda_attach_out_of_memory_observer(observe)
    try:
        fill()
    except torch.OutOfMemoryError:
        pass
    diagnosis = _dump_and_read(kind)
    [oom] = diagnosis.model.ooms
    [finding] = [finding for finding in diagnosis.findings if finding.code == "MP401"]
    return {
        "seen": seen[-1],
        "said": {"allocated": oom.allocated_bytes, "reserved": oom.reserved_bytes, "stranded": oom.stranded_bytes},
        "after": diagnosis.model.snapshot[0].allocated_bytes,
        "cause": finding.evidence["cause"],
        "hole": oom.largest_hole_bytes,
        "requested": oom.requested_bytes,
        "file": oom.location and os.path.basename(oom.location.file),
        "message": finding.message,
    }


@pytest.mark.parametrize(("kind", "cause"), [("full", "unknown"), ("midway", "unknown"), ("cut up", "fragmentation")])
def test_an_error_is_told_as_it_was_not_as_it_was_when_the_snapshot_was_taken(
    on_cuda: Callable[..., Any], kind: str, cause: str
) -> None:
    found = on_cuda(error_in, kind=kind, memory="2G")
    assert found["said"] == found["seen"]
    if kind != "cut up":
        assert found["after"] < found["said"]["allocated"] / 2  # what `fill` held has been let go of
    assert found["cause"] == cause
    assert found["hole"] < found["requested"]
    assert found["file"] == "test_snapshots.py"
    assert "free on the device" in found["message"]


def pinned() -> dict[str, Any]:
    """Pinned host memory has a history of its own since torch 2.14."""
    import torch

    torch.cuda.memory._record_memory_history(max_entries=1000, stacks="python", record_pinned_host_memory=True)
    kept = [torch.empty(20_000, dtype=torch.uint8, pin_memory=True) for _ in range(3)]
    model = _dump_and_read("pinned").model
    [host] = [item for item in model.snapshot if item.device == "host"]
    return {
        "bytes": host.allocated_bytes,
        "count": len(kept),
        "lines": [line.count for line in model.peaks["host"].lines],
    }


def test_pinned_host_memory(on_cuda: Callable[..., Any]) -> None:
    assert on_cuda(pinned) == {"bytes": 3 * 32768, "count": 3, "lines": [3]}


def without_a_trace() -> dict[str, Any]:
    """No history was recorded: segments are all there is."""
    import torch

    kept = torch.empty(5 * MIB, dtype=torch.uint8, device="cuda")
    diagnosis = _dump_and_read("bare")
    [totals] = diagnosis.model.snapshot
    return {
        "bytes": totals.allocated_bytes,
        "real": torch.cuda.memory_allocated(),
        "kept": kept.nbytes,
        "entries": totals.trace_entries,
        "notes": list(diagnosis.model.run.notes),
        "codes": [finding.code for finding in diagnosis.findings],
    }


def test_a_snapshot_without_a_trace(on_cuda: Callable[..., Any]) -> None:
    found = on_cuda(without_a_trace)
    assert found["bytes"] == found["real"] == found["kept"]
    assert found["entries"] == 0
    assert found["notes"] == ["the snapshot has no trace: only what was alive when it was taken is known"]
    assert found["codes"] == []


def export_beside_torch(level: str, settings: str) -> dict[str, Any]:
    """Record a run, export it, and take torch's own snapshot of the same moment."""
    import pickle

    import torch
    from torch.cuda import _memory_viz

    import memprof
    from memprof.report.export_snapshot import SnapshotReporter

    torch.cuda.memory._set_allocator_settings(settings)
    model = torch.nn.Sequential(*[torch.nn.Linear(512, 512) for _ in range(4)]).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    kept = []
    with memprof.Profiler(level, output=os.path.join(os.getcwd(), "run.memprof")) as profiler:
        for i in range(4):
            kept.append(torch.empty((i + 1) * MIB, dtype=torch.uint8, device="cuda"))
            model(torch.ones(64 * (i + 1), 512, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            profiler.step()
        real = torch.cuda.memory._snapshot()["segments"]
    content = SnapshotReporter().render(memprof.diagnose(profiler.recording))
    found = pickle.loads(content)
    ours = [segment for segment in found["segments"] if segment["device"] == 0]  # the CPU's come after
    pages = [_memory_viz.trace_plot(found), _memory_viz.segment_plot(found)]

    def used(segments: list[dict[str, Any]]) -> list[list[int]]:
        blocks = [item for segment in segments for item in segment["blocks"] if item["state"] == "active_allocated"]
        return sorted([item["address"], item["size"]] for item in blocks)

    return {
        "blocks": [used(ours), used(real)],
        "segments": [
            sorted([segment["address"], segment["total_size"], segment["is_expandable"]] for segment in segments)
            for segments in (ours, real)
        ],
        "categories": sorted({item["category"] for item in found["device_traces"][0]}),
        "pages": [len(page) for page in pages],
    }


@pytest.mark.parametrize("level", ["blocks", "tensors"])
@pytest.mark.parametrize("settings", ["expandable_segments:False", "expandable_segments:True"])
def test_an_exported_recording_has_the_addresses_of_the_allocator(
    on_cuda: Callable[..., Any], level: str, settings: str
) -> None:
    found = on_cuda(export_beside_torch, level=level, settings=settings, memory="8G")
    exported, real = found["blocks"]
    assert exported == real
    exported, real = found["segments"]
    assert exported == real
    assert "gradient" in found["categories"]
    assert min(found["pages"]) > 10_000

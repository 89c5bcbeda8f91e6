"""Figures taken while the script itself uses the allocator's counters, and nested profilers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cuda.conftest import OnCuda

MIB = 1 << 20
LEVELS = ("steps", "auto", "blocks", "tensors")


def figures(profiler: Any, device: str = "cuda:0") -> dict[str, Any]:
    """What memprof says of each iteration and of the run."""
    import memprof

    model = memprof.diagnose(profiler.recording).model
    rows = [row.devices[device] for row in model.iterations if device in row.devices]
    return {
        "allocated": [row.allocated_bytes_end for row in rows],
        "reserved": [row.reserved_bytes_end for row in rows],
        "peaks": [row.peak_allocated_bytes for row in rows],
        "sources": [(row.peak_source or row.source).value for row in rows],
        "peak": model.peaks[device].allocated_bytes,
        "iterations": len(model.iterations),
    }


def reset_by_the_user(level: str) -> dict[str, Any]:
    """Scripts print the peak of each iteration, and reset the counter for that."""
    import torch

    import memprof

    torch.cuda.init()
    kept, rows = [], []
    with memprof.Profiler(level) as profiler:
        for size in (40, 10, 30, 20):
            torch.cuda.reset_peak_memory_stats()
            torch.empty(size * MIB, dtype=torch.uint8, device="cuda")
            kept.append(torch.empty(2 * MIB, dtype=torch.uint8, device="cuda"))
            rows.append(
                {
                    "allocated": torch.cuda.memory_allocated(),
                    "reserved": torch.cuda.memory_reserved(),
                    "peak": torch.cuda.max_memory_allocated(),
                }
            )
            profiler.step()
    return {"rows": rows, **figures(profiler)}


@pytest.mark.parametrize("level", ["steps", "auto", "blocks", "tensors"])
def test_figures_hold_though_the_script_resets_the_peak_counter(on_cuda: OnCuda, level: str) -> None:
    found = on_cuda(reset_by_the_user, level=level)
    rows = found["rows"]
    assert found["allocated"][: len(rows)] == [row["allocated"] for row in rows]
    assert found["reserved"][: len(rows)] == [row["reserved"] for row in rows]
    assert found["peaks"][: len(rows)] == [row["peak"] for row in rows]
    assert found["peak"] == max(row["peak"] for row in rows) == 40 * MIB


def counters_of_the_user(level: str | None) -> list[int]:
    """What a script reads from the counters that it resets itself."""
    import contextlib

    import torch

    import memprof

    torch.cuda.init()
    rows = []
    with contextlib.nullcontext() if level is None else memprof.Profiler(level) as profiler:
        for size in (40, 10, 30):
            torch.empty(size * MIB, dtype=torch.uint8, device="cuda")
            if profiler is not None:
                profiler.step()
            rows += [torch.cuda.max_memory_allocated(), torch.cuda.memory_stats()["allocation.all.allocated"]]
            torch.cuda.reset_peak_memory_stats()
    return rows


@pytest.mark.parametrize("level", LEVELS)
def test_the_script_reads_from_the_counters_what_it_reads_without_memprof(on_cuda: OnCuda, level: str) -> None:
    assert on_cuda(counters_of_the_user, level=level) == on_cuda(counters_of_the_user, level=None)


def late(level: str) -> dict[str, Any]:
    """CUDA is first used, and its second device still later, when the profiler has been running for a while."""
    import torch

    import memprof

    kept, rows = [], []
    with memprof.Profiler(level) as profiler:
        for i in range(40):
            if i >= 10:
                kept.append(torch.empty(MIB, dtype=torch.uint8, device="cuda:0"))
            if i >= 30:
                kept.append(torch.empty(2 * MIB, dtype=torch.uint8, device="cuda:1"))
            profiler.step()
        rows = [torch.cuda.memory_allocated(device) for device in range(2)]
    return {
        "rows": rows,
        "found": [figures(profiler, f"cuda:{device}") for device in range(2)],
    }


@pytest.mark.parametrize("level", ["steps", "auto", "blocks", "tensors"])
def test_devices_that_come_into_use_late_are_counted(on_cuda: OnCuda, level: str) -> None:
    found = on_cuda(late, devices=2, level=level)
    assert [device["peak"] for device in found["found"]] == found["rows"] == [30 * MIB, 20 * MIB]
    assert [device["iterations"] for device in found["found"]] == [41, 41]
    assert found["found"][0]["allocated"][-31:] == [*(count * MIB for count in range(1, 31)), 30 * MIB]


def nested(outer: str, inner: str) -> dict[str, Any]:
    """A library that profiles itself is called by a script that is profiled."""
    import torch

    import memprof

    torch.cuda.init()
    rows = []
    with memprof.Profiler(outer) as profiler:
        kept = []
        for _ in range(3):
            with memprof.Profiler(inner) as second:
                kept.append(torch.empty(4 * MIB, dtype=torch.uint8, device="cuda"))
            rows.append({"allocated": torch.cuda.memory_allocated(), "outermost": second.is_outermost})
            profiler.step()
            rows[-1]["seen"] = figures(second)["peak"]
    after = memprof.Profiler(inner)
    with after:
        kept.append(torch.empty(4 * MIB, dtype=torch.uint8, device="cuda"))
        after.step()
    return {
        "rows": rows,
        "outer": figures(profiler),
        "after": figures(after),
        "history": torch._C._cuda_isHistoryEnabled(),
    }


@pytest.mark.parametrize("inner", LEVELS)
@pytest.mark.parametrize("outer", LEVELS)
def test_a_profiler_inside_a_profiler_sees_what_the_outer_one_records(on_cuda: OnCuda, outer: str, inner: str) -> None:
    found = on_cuda(nested, outer=outer, inner=inner)
    allocated = [4 * MIB, 8 * MIB, 12 * MIB]
    assert [row["allocated"] for row in found["rows"]] == allocated
    assert [row["seen"] for row in found["rows"]] == allocated
    assert not any(row["outermost"] for row in found["rows"])
    assert found["outer"]["allocated"][:3] == allocated
    assert found["outer"]["peak"] == 12 * MIB
    assert found["after"]["peak"] == 16 * MIB
    assert not found["history"]

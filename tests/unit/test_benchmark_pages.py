"""What benchmarks make of figures; no benchmark is run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import prediction_page
from benchmarks.replays import compare
from memprof.advise.device_runs import DeviceRun
from memprof.record.blocks import BlockAction, BlockEvents, BlockLog

MIB = 1 << 20


def run_of(*peaks: int, seconds: float = 1.0) -> dict[str, object]:
    """A run whose peak allocated and reserved after each iteration are these, in MiB."""
    return {"rows": [(0, peak * MIB, 0, 2 * peak * MIB) for peak in peaks], "seconds": seconds, "torch": "2.14.1"}


def test_errors_are_those_of_the_highest_peak_with_their_sign() -> None:
    result = {"cuda": run_of(50, 100), "dry": run_of(50, 98)}
    assert prediction_page.errors(result, "dry") == pytest.approx((-0.02, -0.02))
    assert prediction_page.errors(result, "simulated") is None


def test_the_page_tells_held_out_workloads_and_other_tools_apart() -> None:
    results = {
        "known": {"cuda": run_of(100), "simulated": run_of(100, seconds=3), "dry": run_of(100), "cpu": run_of(0)},
        "new": {"cuda": run_of(100), "dry": run_of(101), "simulated failed": "it stopped"},
    }
    others = [{"tool": "another", "workload": "known", "bytes": 150 * MIB, "how": "1.0; asked"}]
    page = prediction_page.render(results, {"new": (-0.25, 0.5)}, others)
    assert "| `known` | 100.0 | 200.0 | +0.00% | +0.00% | +0.00% | +0.00% | 4 of 4 | 3x / 1x |" in page
    assert "| `new` | 100.0 | 200.0 | -25.00% | +50.00% | | | +1.00% | +1.00% | 2 of 4 |" in page
    assert "| at first: reserved | 1 | 50.000% | 50.000% | 50.000% |" in page
    assert "- `new`: not known yet." in page
    assert "| `known` | +0.00% | +50.00% |" in page
    assert "- `new`, simulated: it stopped" in page


def history(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Rows of a trace in which every allocation takes a segment of its own size class; action, address, bytes."""
    at = 0x7000_0000_0000
    for nbytes in sizes:
        segment = 20 * MIB if nbytes < 10 * MIB else nbytes
        yield BlockAction.SEGMENT_ALLOC, at, segment
        yield BlockAction.ALLOC, at, nbytes
        at += 64 * MIB


@pytest.mark.parametrize(("sizes", "same"), [([12 * MIB, 30 * MIB], 2), ([4 * MIB, 4 * MIB], 1)])
def test_choices_are_compared_one_by_one(sizes: list[int], same: int) -> None:
    # Two blocks of 4 MiB fit one segment of 20 MiB: a record with two of these has chosen otherwise.
    rows = np.array([*history(sizes)], np.int64)
    none = np.zeros(len(rows), np.int64)
    events = BlockEvents(rows[:, 0], none, rows[:, 1], rows[:, 2], none, none)
    log = BlockLog((), np.zeros((0, 0), np.int64), none, {}, {}, {})
    found = compare(DeviceRun("cuda:0", events, none, (), (), log, ()), (2, 14))
    assert (found.allocations, found.same_choice, found.same_address) == (2, same, same)
    assert (found.new_memory, found.new_memory_same) == (2, same)

"""Recorded runs lived through again."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from memprof._errors import UsageError
from memprof.advise.what_if import CANDIDATES, DeviceWhatIf, Outcome, candidates, ranked, what_if
from memprof.model.memory import Source
from memprof.record.blocks import AllocatorHistory, Block, BlockAction, BlockEvents, BlockState, DeviceHistory, Segment
from memprof.record.events import Location
from memprof.record.snapshot_view import SnapshotView
from memprof.report.what_if_json import what_if_text
from memprof.report.what_if_table import what_if_table
from memprof.simulate.gpus import Gpu, find_gpu
from memprof.simulate.settings import AllocatorSettings

MIB = 1 << 20
A = BlockAction
LINE = Location("/project/train.py", 7, "train")


def history(*rows: tuple[int, int, int], segments: tuple[Segment, ...] = ()) -> SnapshotView:
    """A snapshot of one device from rows of action, address, bytes."""
    action, address, nbytes = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    zeros = np.zeros(len(action), np.int64)
    events = BlockEvents(action.astype(np.int8), zeros, address, nbytes, zeros, zeros.astype(np.int32))
    device = DeviceHistory("cuda:0", segments, events)
    return SnapshotView(AllocatorHistory((device,), stacks=((LINE,),)), "/project/run.pickle")


def freed(address: int, nbytes: int) -> list[tuple[int, int, int]]:
    return [(A.FREE_REQUESTED, address, nbytes), (A.FREE_COMPLETED, address, nbytes)]


def growing() -> SnapshotView:
    """Each buffer is larger than the one before, so no freed segment is ever good enough again."""
    rows: list[tuple[int, int, int]] = []
    at = 0
    for nbytes in range(20 * MIB, 60 * MIB, 4 * MIB):
        rows += [(A.SEGMENT_ALLOC, at, nbytes), (A.ALLOC, at, nbytes), *freed(at, nbytes)]
        at += nbytes
    return history(*rows)


def outcome(label: str, reserved: int, *, out_of_memory: str = "", source: Source = Source.SIMULATED) -> Outcome:
    return Outcome(label, source, 100 * MIB, reserved, 3, 0, out_of_memory)


def table(found: DeviceWhatIf, *, advise: bool = True, width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    console.print(what_if_table([found], console, advise=advise))
    return out.getvalue()


# ---- replays ---------------------------------------------------------------------------------


def test_the_replay_as_set_needs_what_was_recorded() -> None:
    [found] = what_if(growing())
    recorded, replayed = found.outcomes
    total = sum(range(20 * MIB, 60 * MIB, 4 * MIB))
    assert (recorded.label, recorded.source) == ("as recorded", Source.MEASURED)
    assert (replayed.label, replayed.source) == ("replayed", Source.SIMULATED)
    for one in found.outcomes:
        assert (one.peak_allocated_bytes, one.peak_reserved_bytes, one.device_allocs) == (56 * MIB, total, 10)
        assert one.fragmentation == pytest.approx(1 - 56 * MIB / total)


def test_another_setting_reserves_what_it_would() -> None:
    [found] = what_if(growing(), ["expandable_segments:True"])
    expandable = found.outcomes[-1]
    assert expandable.peak_reserved_bytes == 60 * MIB  # pages of 20 MiB
    assert found.best is expandable
    assert found.saves_bytes(expandable) == sum(range(20 * MIB, 60 * MIB, 4 * MIB)) - 60 * MIB


def test_a_smaller_gpu_runs_out_of_memory_where_it_would() -> None:
    [found] = what_if(growing(), gpu=Gpu("small", 60 * MIB, context_bytes=10 * MIB))
    assert found.total_bytes == 60 * MIB
    assert not found.baseline.fits
    assert "52 MiB were asked for" in found.baseline.out_of_memory
    assert found.baseline.out_of_memory_at == LINE
    assert found.baseline.out_of_memory_iteration is None  # a snapshot knows of no iterations


def test_a_cache_given_back_is_a_retry_not_an_error() -> None:
    [found] = what_if(growing(), gpu=Gpu("small", 100 * MIB, context_bytes=0))
    assert found.baseline.fits
    assert found.baseline.alloc_retries


def test_blocks_from_before_the_trace_take_their_place() -> None:
    block = Block(0, 30 * MIB, 30 * MIB, BlockState.ACTIVE_ALLOCATED, 0)
    segment = Segment(0, 30 * MIB, 0, True, (0, 0), False, (block,))
    [found] = what_if(
        history((A.SEGMENT_ALLOC, 64 * MIB, 20 * MIB), (A.ALLOC, 64 * MIB, 20 * MIB), segments=(segment,))
    )
    recorded, replayed = found.outcomes
    assert (recorded.peak_allocated_bytes, replayed.peak_allocated_bytes) == (50 * MIB, 50 * MIB)
    assert found.notes == ("1 blocks from before the trace (30 MiB) lay in segments that are not known",)


def test_a_snapshot_without_a_trace_says_what_to_record() -> None:
    empty = BlockEvents(*(np.zeros(0, kind) for kind in (np.int8, *[np.int64] * 4, np.int32)))  # type: ignore[arg-type]
    view = SnapshotView(AllocatorHistory((DeviceHistory("cuda:0", (), empty),), stacks=()), "/project/run.pickle")
    with pytest.raises(UsageError, match=r"/project/run.pickle does not say .* --level blocks or tensors"):
        what_if(view)


def test_a_wrong_setting_is_told_before_anything_is_replayed() -> None:
    with pytest.raises(UsageError, match="'expandable' is not an allocator setting"):
        what_if(growing(), ["expandable:True"])


def test_every_candidate_is_a_setting() -> None:
    for text in CANDIDATES:
        assert AllocatorSettings.parse(text) != AllocatorSettings()


def test_only_settings_that_the_torch_of_the_run_knows_are_tried() -> None:
    limited = "garbage_collection_threshold:0.8,per_process_memory_fraction:0.95"
    view = growing()
    assert candidates(view) == CANDIDATES  # which torch wrote a snapshot is not known
    view.run.torch = "2.9.1+cu128"
    assert candidates(view) == tuple(text for text in CANDIDATES if text != limited)
    with pytest.raises(UsageError, match="'per_process_memory_fraction' is not an allocator setting of torch 2.9.1"):
        what_if(view, [limited])
    view.run.torch = "2.10.0"
    assert candidates(view) == CANDIDATES


# ---- choice ----------------------------------------------------------------------------------


def test_a_small_gain_is_no_advice() -> None:
    base = outcome("replayed", 1000 * MIB)
    assert DeviceWhatIf("cuda:0", None, (base, outcome("a:1", 985 * MIB))).best is None  # under 2 %
    assert DeviceWhatIf("cuda:0", None, (outcome("replayed", 20 * MIB), outcome("a:1", 10 * MIB))).best is None
    better = outcome("a:1", 900 * MIB)
    assert DeviceWhatIf("cuda:0", None, (base, better)).best is better


def test_what_fits_beats_what_does_not() -> None:
    base = outcome("replayed", 90 * MIB, out_of_memory="full")
    fits, not_fits = outcome("a:1", 95 * MIB), outcome("b:1", 50 * MIB, out_of_memory="full")
    found = ranked(DeviceWhatIf("cuda:0", 100 * MIB, (base, not_fits, fits)))
    assert [one.label for one in found.outcomes] == ["replayed", "a:1", "b:1"]
    assert found.best is fits
    assert found.saves_bytes(fits) is None
    assert "it makes it fit" in table(found)


# ---- answers ---------------------------------------------------------------------------------


def test_the_table_fits_80_columns_and_ends_in_advice() -> None:
    [found] = what_if(growing(), CANDIDATES)
    text = table(ranked(found))
    assert max(map(len, text.splitlines())) <= 80
    assert "garbage_collection_threshold:0.8," in text
    assert "as recorded (measured)" in text
    assert "replayed (simulated)" in text
    assert "Set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in " ".join(text.split())


def test_the_table_says_where_memory_ran_out() -> None:
    [found] = what_if(growing(), CANDIDATES, gpu=find_gpu("30MiB"))
    text = " ".join(table(found).split())
    assert "replayed: /project/train.py:7 in train: the simulated device is out of memory" in text
    assert "the run needs less memory, not other settings" in text


def test_json_has_figures_and_where_they_come_from() -> None:
    found = what_if(growing(), ["expandable_segments:True"])
    [device] = json.loads(what_if_text(found))["devices"]
    assert device["best"] == "expandable_segments:True"
    assert [one["source"] for one in device["outcomes"]] == ["measured", "simulated", "simulated"]
    assert device["outcomes"][-1]["peak_reserved_bytes"] == 60 * MIB
    assert device["outcomes"][-1]["saves_bytes"] == found[0].saves_bytes(found[0].outcomes[-1])
    assert device["total_bytes"] is None

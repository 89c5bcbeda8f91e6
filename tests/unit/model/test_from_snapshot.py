"""What a snapshot's segments say, now and at an out-of-memory error before."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import memprof
from memprof.advise.diagnosis import Diagnosis
from memprof.record.files import open_file
from memprof.report.terminal import TerminalOptions, TerminalReporter
from tests.unit.record.snapshots import BASE, MIB, USER, block, entry, segment, write

LINE = [USER]
KEPT = [{"filename": "/home/u/train.py", "line": 30, "name": "keep"}]


def diagnosed(path: Path, **data: Any) -> Diagnosis:
    with open_file(write(path / "memory.pickle", data)) as view:
        return memprof.diagnose(view)


def segments(*used: tuple[int, int, list[Any]], size: int = 20 * MIB, count: int = 1) -> list[dict[str, Any]]:
    """Segments of the large pool with blocks at offsets; the rest is free."""
    found = []
    for number in range(count):
        base = BASE + number * 64 * MIB
        blocks, at = [], base
        for offset, nbytes, frames in sorted(used, key=lambda item: item[0]):
            if base + offset > at:
                blocks.append(block(at, base + offset - at, "inactive"))
            blocks.append(block(base + offset, nbytes, frames=frames))
            at = base + offset + nbytes
        if at < base + size:
            blocks.append(block(at, base + size - at, "inactive"))
        found.append(segment(base, size, segment_type="large", blocks=blocks))
    return found


def error(requested: int, free: int, time_us: int) -> dict[str, Any]:
    return entry("oom", None, requested, time_us, device_free=free, frames=LINE)


def freed(address: int, nbytes: int, time_us: int) -> list[dict[str, Any]]:
    return [entry(f"free_{what}", address, nbytes, time_us) for what in ("requested", "completed")]


def test_at_an_error_counts_what_was_let_go_of_since_and_what_was_given_back(tmp_path: Path) -> None:
    trace = [
        entry("segment_alloc", BASE, 20 * MIB, 1),
        entry("alloc", BASE, 2 * MIB, 2, frames=KEPT),
        entry("alloc", BASE + 2 * MIB, 12 * MIB, 3, frames=LINE),
        entry("segment_alloc", BASE + 64 * MIB, 30 * MIB, 4),
        entry("alloc", BASE + 64 * MIB, 30 * MIB, 5, frames=LINE),
        error(40 * MIB, 5 * MIB, 6),
        *freed(BASE + 2 * MIB, 12 * MIB, 20),
        *freed(BASE + 64 * MIB, 30 * MIB, 21),
        entry("segment_free", BASE + 64 * MIB, 30 * MIB, 22),
    ]
    diagnosis = diagnosed(tmp_path, segments=segments((0, 2 * MIB, KEPT)), device_traces=[trace])
    [oom] = diagnosis.model.ooms
    assert (oom.allocated_bytes, oom.reserved_bytes) == (44 * MIB, 50 * MIB)
    assert (oom.largest_hole_bytes, oom.stranded_bytes) == (6 * MIB, 6 * MIB)
    [finding] = [finding for finding in diagnosis.findings if finding.code == "MP401"]
    assert finding.evidence["cause"] == "unknown"
    assert finding.evidence["caught"] is None
    assert "5 MiB free on the device, 44 MiB allocated, 50 MiB reserved, largest hole 6 MiB" in finding.message
    assert "42 MiB by train.py:12; 2 MiB by train.py:30" in finding.message
    assert "iteration 0" not in finding.message


def test_a_block_that_another_stream_still_used_is_no_hole(tmp_path: Path) -> None:
    trace = [
        entry("segment_alloc", BASE, 20 * MIB, 1),
        entry("alloc", BASE, 16 * MIB, 2, frames=LINE),
        entry("free_requested", BASE, 16 * MIB, 3),
        error(40 * MIB, 5 * MIB, 6),
        entry("free_completed", BASE, 16 * MIB, 20),
    ]
    [oom] = diagnosed(tmp_path, segments=segments(), device_traces=[trace]).model.ooms
    assert (oom.allocated_bytes, oom.largest_hole_bytes, oom.stranded_bytes) == (0, 4 * MIB, 4 * MIB)


def test_holes_are_unknown_where_pages_came_or_went_since(tmp_path: Path) -> None:
    trace = [
        entry("segment_map", BASE, 40 * MIB, 1),
        error(80 * MIB, 5 * MIB, 6),
        entry("segment_unmap", BASE + 20 * MIB, 20 * MIB, 20),
    ]
    [oom] = diagnosed(tmp_path, segments=segments(), device_traces=[trace]).model.ooms
    assert oom.reserved_bytes == 40 * MIB
    assert oom.largest_hole_bytes is None
    assert oom.stranded_bytes is None


def test_an_error_is_told_alike_whether_others_came_before_and_after_it(tmp_path: Path) -> None:
    chance, trace, live = random.Random(3), [entry("segment_alloc", BASE, 20 * MIB, 0)], []
    for time_us in range(1, 60):
        dice = chance.random()
        if dice < 0.15:
            trace.append(error(40 * MIB, 5 * MIB, time_us))
        elif dice < 0.25:
            other = BASE + (1 + time_us) * 64 * MIB
            trace.append(entry("segment_alloc", other, 20 * MIB, time_us))
            if dice < 0.22:
                trace.append(entry("segment_free", other, 20 * MIB, time_us))
        elif dice < 0.6 and len(live) < 20:
            place = chance.choice([place for place in range(20) if place not in live])
            live.append(place)
            trace.append(entry("alloc", BASE + place * MIB, MIB, time_us, frames=LINE))
        elif live:
            block_freed = freed(BASE + live.pop(chance.randrange(len(live))) * MIB, MIB, time_us)
            trace += block_freed[: 1 + (dice < 0.9)]  # some another stream never gives back
    kept = [(place * MIB, MIB, LINE) for place in live]
    errors = [place for place, item in enumerate(trace) if item["action"] == "oom"]
    together = diagnosed(tmp_path, segments=segments(*kept), device_traces=[trace]).model.ooms

    alone = []
    for place in errors:
        one = [item for at, item in enumerate(trace) if at == place or at not in errors]
        alone += diagnosed(tmp_path, segments=segments(*kept), device_traces=[one]).model.ooms
    assert len(errors) > 5
    assert together == tuple(alone)
    assert len({(oom.allocated_bytes, oom.largest_hole_bytes, oom.stranded_bytes) for oom in together}) > 3


@pytest.mark.parametrize(
    ("requested", "cause"), [(100 * MIB, "fragmentation"), (800 * MIB, "too big"), (400 * MIB, "unknown")]
)
def test_the_cause_of_an_error_as_far_as_a_snapshot_tells(tmp_path: Path, requested: int, cause: str) -> None:
    held = segments((0, 2 * MIB, KEPT), count=20)
    diagnosis = diagnosed(tmp_path, segments=held, device_traces=[[error(requested, 5 * MIB, 6)]])
    [finding] = [finding for finding in diagnosis.findings if finding.code == "MP401"]
    assert finding.evidence["cause"] == cause


def whole_run(large: int) -> list[dict[str, Any]]:
    """A trace from the start: a small block in each of 20 segments, and for a time much beside it."""
    trace = []
    for number in range(20):
        base = BASE + number * 64 * MIB
        trace += [
            entry("segment_alloc", base, 20 * MIB, 10 * number),
            entry("alloc", base, 2 * MIB, 10 * number + 1, frames=KEPT),
            entry("alloc", base + 2 * MIB, large, 10 * number + 2, frames=LINE),
            *freed(base + 2 * MIB, large, 10 * number + 3),
        ]
    return trace


def test_fragmentation_is_found_in_a_snapshot_with_who_holds_the_segments(tmp_path: Path) -> None:
    held = segments((0, 2 * MIB, KEPT), count=20)
    diagnosis = diagnosed(tmp_path, segments=held, device_traces=[whole_run(18 * MIB)])
    [finding] = diagnosis.findings
    assert finding.code == "MP311"
    assert finding.bytes == 400 * MIB - 58 * MIB
    assert "reserved 400 MiB where at most 58 MiB was allocated at once" in finding.message
    assert "held by train.py:30 (20 blocks, 40 MiB, beside 360 MiB free)" in finding.message
    assert diagnosis.model.peaks["cuda:0"].reserved_bytes == 400 * MIB
    assert diagnosis.model.snapshot[0].trace_complete


def test_without_the_beginning_only_what_is_stranded_counts(tmp_path: Path) -> None:
    held = segments((0, 2 * MIB, KEPT), count=20)
    [finding] = diagnosed(tmp_path, segments=held).findings
    assert finding.code == "MP311"
    assert finding.message.startswith(
        "360 MiB of the 400 MiB that cuda:0 had reserved was stranded when the snapshot was"
    )
    wholly_free = [segment(BASE + n * 64 * MIB, 20 * MIB, blocks=[block(BASE + n * 64 * MIB, 20 * MIB, "inactive")]) for n in range(20)]  # fmt: skip
    assert diagnosed(tmp_path, segments=wholly_free).findings == ()
    # Nearly all of it was in use at once within the trace.
    full = [
        item
        for number in range(20)
        for item in (entry("alloc", BASE + number * 64 * MIB + 2 * MIB, 18 * MIB, number, frames=LINE),)
    ]
    emptied = [item for number in range(20) for item in freed(BASE + number * 64 * MIB + 2 * MIB, 18 * MIB, 100)]
    assert diagnosed(tmp_path, segments=held, device_traces=[[*full, *emptied]]).findings == ()


def test_expandable_segments_strand_nothing(tmp_path: Path) -> None:
    held = [{**item, "is_expandable": True} for item in segments((0, 2 * MIB, KEPT), count=20)]
    assert diagnosed(tmp_path, segments=held).findings == ()


def test_the_report_of_a_snapshot_speaks_of_blocks_and_their_age(tmp_path: Path) -> None:
    trace = [
        entry("segment_alloc", BASE, 20 * MIB, 0),
        *(entry("alloc", BASE + 2 * n * MIB, 2 * MIB, 1000 * n, frames=KEPT) for n in range(5)),
    ]
    held = segments(*((2 * n * MIB, 2 * MIB, KEPT) for n in range(5)))
    other = segment(BASE + 64 * MIB, 2 * MIB, device=1)
    host = segment(BASE + 128 * MIB, 32768, device=-1, blocks=[block(BASE + 128 * MIB, 32768)])
    diagnosis = diagnosed(tmp_path, segments=[*held, other], device_traces=[trace, []], host_segments=[host])
    text = TerminalReporter(TerminalOptions(verbose=True, cwd="/home/u")).to_text(diagnosis)
    assert text.startswith(
        "memory.pickle | PyTorch memory snapshot | cuda:0, cuda:1, host | 6 trace entries over 4.00 ms\n\n"
        "no problem found\n"
    )
    short = TerminalReporter(TerminalOptions(cwd="/home/u")).to_text(diagnosis)
    assert f"(could not decide: {len(diagnosis.skipped)} rules for want of iterations)" in short
    assert "5 blocks, 0.00 us to 4.00 ms old" in text
    assert "1 block, older than the trace" in text
    assert "pinned host memory when the snapshot was taken" in text
    assert "a snapshot shows no iterations; record the run with `memprof analyze`" in text
    for word in ("uncategorised", "storage", "iteration 0", "leak "):
        assert word not in text.replace("not each is a leak", "")


def test_a_plot_of_a_snapshot_is_over_time(tmp_path: Path) -> None:
    from memprof.report.plot import PlotReporter

    trace = [entry("segment_alloc", BASE, 20 * MIB, 0), entry("alloc", BASE, 2 * MIB, 5_000_000, frames=KEPT)]
    other = segment(BASE + 64 * MIB, 2 * MIB, device=1)
    diagnosis = diagnosed(tmp_path, segments=[*segments((0, 2 * MIB, KEPT)), other], device_traces=[trace, []])
    assert diagnosis.model.iterations == ()
    first, second = PlotReporter().figure(diagnosis).axes
    assert first.get_title(loc="left") == "Memory of cuda:0 over the trace"
    assert first.get_xlabel() == "time, s"
    assert [text.get_text() for text in second.texts] == ["the snapshot has no trace of this device"]

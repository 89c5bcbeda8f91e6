"""The snapshot export: what `torch.cuda._memory_viz` and MemoryViz.js need of it."""

from __future__ import annotations

import io
import pickle
import pickletools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.advise.diagnosis import Diagnosis, diagnose
from memprof.record.events import Birth, Location, ModuleRef, OutOfMemory, Phase
from memprof.report.address_space import ALIGNMENT, AddressSpace, round_up
from memprof.report.export_snapshot import SnapshotReporter, device_indices
from tests import factories
from tests.unit.model.fake_recording import FakeRecording

VIEWER_OPCODES = set(
    "PROTO APPEND APPENDS LIST TUPLE NEWFALSE NEWTRUE NONE BINGET BININT BININT1 BININT2 EMPTY_DICT EMPTY_LIST FRAME "
    "LONG1 LONG_BINGET MARK MEMOIZE BINPUT SETITEMS SETITEM DICT SHORT_BINUNICODE BINUNICODE STOP EMPTY_TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 BINFLOAT".split()
)
"""Opcodes MemoryViz.js knows."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise AssertionError(f"{module}.{name} is no plain type")


def exported(diagnosis: Diagnosis) -> dict:
    content = SnapshotReporter().render(diagnosis)
    assert {opcode.name for opcode, _, _ in pickletools.genops(content)} <= VIEWER_OPCODES
    return _Plain(io.BytesIO(content)).load()


@pytest.fixture
def run() -> FakeRecording:
    """Three iterations, each of which keeps 600 bytes."""
    fake = FakeRecording()
    fake.birth(4000, location=Location("/träin.py", 3, "main"), module=ModuleRef("", "Net"))
    fake.birth(0)
    carried = ()
    for _ in range(3):
        carried = fake.step(carried=carried, leak=600)
    return fake


def check(snapshot: dict) -> None:
    """Every rule of the format that does not depend on the run."""
    for index, trace in enumerate(snapshot["device_traces"]):
        segments = [segment for segment in snapshot["segments"] if segment["device"] == index]
        assert bool(trace) == bool(segments)
        if not trace:
            continue
        (segment,) = segments
        end = segment["address"] + segment["total_size"]
        assert trace[0]["action"] == "segment_alloc"
        assert (trace[0]["addr"], trace[0]["size"]) == (segment["address"], segment["total_size"])
        assert any(entry.get("category") == "unknown" for entry in trace), "MemoryViz.js fails without it"
        assert [entry["time_us"] for entry in trace] == sorted(entry["time_us"] for entry in trace)
        live: dict[int, int] = {}
        for entry in trace[1:]:
            start, stop = entry["addr"], entry["addr"] + entry["size"]
            assert start % ALIGNMENT == 0
            assert segment["address"] <= start < stop <= end < 2**53
            if entry["action"] == "alloc":
                assert all(stop <= other or begin >= stop for begin, other in live.items() if begin >= start)
                assert all(other <= start for begin, other in live.items() if begin < start)
                live[start] = stop
            elif entry["action"] == "free_completed":
                assert live.pop(start) == stop
        address = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == address
            address += block["size"]
        assert address == end
        active = [block for block in segment["blocks"] if block["state"] == "active_allocated"]
        assert {block["address"]: block["address"] + block["requested_size"] for block in active} == live
        assert segment["active_size"] == segment["allocated_size"] == sum(block["size"] for block in active)
        assert segment["requested_size"] == sum(block["requested_size"] for block in active)


def test_storages_become_blocks(run: FakeRecording) -> None:
    snapshot = exported(diagnose(run))

    check(snapshot)
    (trace,) = snapshot["device_traces"]
    allocs = [entry for entry in trace if entry["action"] == "alloc"]
    assert len(allocs) == sum(birth.nbytes > 0 for birth in run.birth_rows)
    assert sum(entry["action"] == "free_completed" for entry in trace) == len(run.death_rows)
    assert [entry["size"] for entry in allocs][:2] == [4000, 10]
    assert allocs[0]["frames"] == [
        {"filename": "op", "line": 0, "name": "aten::empty"},
        {"filename": "module", "line": 0, "name": "(root) (Net)"},
        {"filename": "/träin.py", "line": 3, "name": "main"},
    ]
    assert "input" in {entry["category"] for entry in allocs}
    (segment,) = snapshot["segments"]
    assert segment["requested_size"] == sum(run.live.values())


def test_torch_reads_it(run: FakeRecording) -> None:
    viz = pytest.importorskip("torch.cuda._memory_viz")
    snapshot = exported(diagnose(run))

    assert "segments: 1" in viz.segsum(snapshot)
    assert "cudaMalloc" in viz.trace(snapshot)
    for page in (viz.trace_plot(snapshot), viz.trace_plot(snapshot, plot_segments=True), viz.segment_plot(snapshot)):
        assert "<script" in page
    assert "train.py:10:train" in viz.memory(snapshot, format_flamegraph=lambda lines: lines)
    viz.segments(snapshot, format_flamegraph=lambda lines: lines)


def test_iterations_and_phases_are_annotations(run: FakeRecording) -> None:
    marks = exported(diagnose(run))["external_annotations"]

    trains = [mark for mark in marks if mark["name"].startswith("train iteration")]
    assert [mark["stage"] for mark in trains] == ["START", "END"] * 3
    assert {mark["name"] for mark in marks} >= {"forward", "backward", "optimizer"}
    assert set(marks[0]) == {"device", "name", "stage", "time_us"}


def test_a_cuda_device_keeps_its_number_and_out_of_memory_is_shown() -> None:
    fake = FakeRecording(device="cuda:1")
    fake.run.devices = ("cuda:1",)
    fake.run.allocator_settings = {"expandable_segments": True, "roundup": (1, 2)}
    fake.step()
    fake.ooms.append(
        OutOfMemory(0, fake.now, "cuda:1", Phase.FORWARD, 1 << 20, 2 << 20, 1 << 30, 7, 0, 0, None, None, None)
    )
    fake.birth_rows.append(Birth(99, 3, 0, Phase.OTHER, 8, "float32", "meta", "aten::empty", None, None, None))

    snapshot = exported(diagnose(fake))

    assert snapshot["device_traces"][0] == []
    assert len(snapshot["device_traces"]) == 2
    assert snapshot["segments"][0]["device"] == 1
    assert snapshot["device_traces"][1][-1]["device_free"] == 7
    assert snapshot["allocator_settings"] == {"expandable_segments": True, "roundup": [1, 2]}


@pytest.mark.parametrize(
    ("devices", "indices"),
    [
        (("cpu",), {"cpu": 0}),
        (("cpu", "cuda:1", "cuda:0"), {"cuda:1": 1, "cuda:0": 0, "cpu": 2}),
        (("cuda:0", "xpu:0"), {"cuda:0": 0, "xpu:0": 1}),
        ((), {}),
    ],
)
def test_device_indices(devices: tuple[str, ...], indices: dict[str, int]) -> None:
    assert device_indices(devices) == indices


@pytest.mark.parametrize("scenario", sorted(set(factories.SCENARIOS) - {"snapshot"}))
def test_runs_without_watched_storages_are_empty_snapshots(scenario: str) -> None:
    snapshot = exported(factories.SCENARIOS[scenario]())

    assert snapshot["segments"] == []
    assert not any(snapshot["device_traces"])


def test_a_file_name_that_is_no_text_is_escaped(run: FakeRecording) -> None:
    run.birth(100, location=Location("/\udcff.py", 1, "</script>"))

    assert "\\udcff" in str(exported(diagnose(run)))


def test_same_bytes_twice_and_another_start_of_time(run: FakeRecording) -> None:
    diagnosis = diagnose(run)
    later = replace(diagnosis.model.run, started_unix_ns=5_000_000_000)

    assert SnapshotReporter().render(diagnosis) == SnapshotReporter().render(diagnosis)
    moved = exported(replace(diagnosis, model=replace(diagnosis.model, run=later)))
    assert moved["device_traces"][0][0]["time_us"] == 5_000_000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 1 << 22)), max_size=80))
def test_address_space_never_overlaps_and_tiles(actions: list[tuple[int, int]]) -> None:
    space = AddressSpace(1 << 20)
    live: dict[int, int] = {}
    for kind, number in actions:
        if kind == 0 and live:
            start = sorted(live)[number % len(live)]
            space.give_back(start, live.pop(start))
        else:
            size = round_up(number)
            start = space.take(size)
            assert start not in live
            live[start] = size
        address = space.base
        for start, size in sorted([*live.items(), *space.holes()]):
            assert start == address
            address += size
        assert address == space.end
    for start, size in list(live.items()):
        space.give_back(start, size)
    assert space.holes() == ([(space.base, space.end - space.base)] if actions and space.end > space.base else [])

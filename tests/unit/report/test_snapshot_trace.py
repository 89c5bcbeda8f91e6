"""Exported snapshots of a run whose allocator's history was recorded: the addresses and segments are CUDA's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from memprof.advise.diagnosis import diagnose
from memprof.record.blocks import BlockAction
from memprof.record.files import open_file
from memprof.report.export_snapshot import SnapshotReporter
from memprof.report.pickle_stream import PickleStream, Reference, places_of
from tests.unit.record.snapshots import BASE, MIB, USER, block, entry, segment, snapshot, write


def freed(address: int, nbytes: int, time_us: int) -> list[dict[str, Any]]:
    return [entry(f"free_{what}", address, nbytes, time_us) for what in ("requested", "completed")]


def exported(path: Path, **data: Any) -> dict[str, Any]:
    with open_file(write(path / "memory.pickle", snapshot(**data))) as view:
        return pickle.loads(SnapshotReporter().render(diagnose(view)))


def test_addresses_and_segments_are_those_recorded(tmp_path: Path) -> None:
    trace = [
        entry("segment_alloc", BASE, 20 * MIB, 1),
        entry("alloc", BASE, 2 * MIB, 2, frames=[USER]),
        entry("alloc", BASE + 2 * MIB, 8 * MIB, 3, frames=[USER]),
        entry("segment_alloc", BASE + 64 * MIB, 30 * MIB, 4, stream=7),
        entry("alloc", BASE + 64 * MIB, 30 * MIB, 5, stream=7),
        *freed(BASE + 64 * MIB, 30 * MIB, 6),
        entry("segment_free", BASE + 64 * MIB, 30 * MIB, 7, stream=7),
        *freed(BASE, 2 * MIB, 8),
        entry("alloc", BASE, 1 * MIB, 9, frames=[USER]),
    ]
    rest = block(BASE + 1 * MIB, 1 * MIB, "inactive"), block(BASE + 10 * MIB, 10 * MIB, "inactive")
    held = segment(
        BASE,
        20 * MIB,
        blocks=[block(BASE, MIB), rest[0], block(BASE + 2 * MIB, 8 * MIB), rest[1]],
        segment_type="large",
    )
    found = exported(tmp_path, segments=[held], device_traces=[trace])
    said = [(item["action"], item["addr"], item["size"]) for item in found["device_traces"][0]]
    assert said == [(item["action"], item["addr"], item["size"]) for item in trace]
    assert [item["stream"] for item in found["device_traces"][0]][3] == 7
    [only] = found["segments"]
    assert (only["address"], only["total_size"], only["is_expandable"]) == (BASE, 20 * MIB, False)
    assert [(item["address"], item["size"], item["state"]) for item in only["blocks"]] == [
        (item["address"], item["size"], item["state"]) for item in held["blocks"]
    ]
    assert only["allocated_size"] == 9 * MIB


def test_pages_of_expandable_segments_that_touch_are_one(tmp_path: Path) -> None:
    trace = [
        entry("segment_map", BASE, 20 * MIB, 1),
        entry("segment_map", BASE + 20 * MIB, 20 * MIB, 2),
        entry("alloc", BASE, 30 * MIB, 3, frames=[USER]),
        entry("segment_map", BASE + 80 * MIB, 40 * MIB, 4),
        entry("segment_unmap", BASE + 100 * MIB, 10 * MIB, 5),
    ]
    held = segment(BASE, 40 * MIB, blocks=[block(BASE, 30 * MIB), block(BASE + 30 * MIB, 10 * MIB, "inactive")])
    found = exported(tmp_path, segments=[held], device_traces=[trace])
    assert [(item["address"], item["total_size"], item["is_expandable"]) for item in found["segments"]] == [
        (BASE, 40 * MIB, True),
        (BASE + 80 * MIB, 20 * MIB, True),
        (BASE + 110 * MIB, 10 * MIB, True),
    ]


@pytest.mark.parametrize("where", [BASE + 15 * MIB, BASE + 40 * MIB])
def test_blocks_that_lie_in_no_segment_get_made_up_addresses(tmp_path: Path, where: int) -> None:
    trace = [entry("segment_alloc", BASE, 20 * MIB, 1), entry("alloc", where, 8 * MIB, 2, frames=[USER])]
    found = exported(tmp_path, segments=[], device_traces=[trace])
    [only] = found["segments"]
    assert only["address"] != BASE
    assert [item["state"] for item in only["blocks"]] == ["active_allocated"]


# ---- the stream --------------------------------------------------------------------------------


def test_a_stream_holds_what_was_written() -> None:
    value = {
        "text": "ä" * 300,
        "numbers": [0, 255, 256, 65_535, 65_536, -1, 1 << 31, -(1 << 31), 1 << 62, -(1 << 63), 1.5, True, False, None],
        "pool": (0, 1),
        "empty": [[], {}, "", ()],
        "long": list(range(2500)),
        "\udcff": "text",
    }
    stream = PickleStream()
    stream.value(value)
    found = pickle.loads(stream.finish())
    assert found == {**value, "empty": [[], {}, "", []]}


def test_entries_are_dictionaries_with_shared_values() -> None:
    import numpy as np

    stream = PickleStream()
    stream.raw(b"}(")
    for key in ("addr", "frames"):
        stream.text(key)
        stream.raw(b"N")
    stream.text("stacks")
    stacks = [[number] for number in range(700)]
    places = places_of(stream, stacks)
    stream.text("first")
    stream.value([Reference(int(places[3]))])
    stream.text("trace")
    stream.raw(b"]")
    numbers = np.arange(2500) * (1 << 40)
    stream.entries({"addr": numbers}, {"frames": places[np.arange(2500) % 700]})
    stream.raw(b"u")
    found = pickle.loads(stream.finish())
    assert found["trace"] == [{"addr": n << 40, "frames": [n % 700]} for n in range(2500)]
    assert found["trace"][3]["frames"] is found["first"][0]


def test_what_is_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError, match="BlockAction is no plain type|set is no plain type"):
        PickleStream().value({BlockAction.ALLOC: {1, 2}})


def test_an_exported_snapshot_is_read_again_without_unpickling_every_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memprof.record.snapshot import read_snapshot
    from memprof.record.trace import Trace

    trace = [entry("segment_alloc", BASE, 2 * MIB, 1)]
    for number in range(3000):
        trace += [entry("alloc", BASE, 512, 10 * number + 2, frames=[USER]), *freed(BASE, 512, 10 * number + 3)]
    unused = segment(BASE, 2 * MIB, blocks=[block(BASE, 2 * MIB, "inactive")])
    with open_file(write(tmp_path / "memory.pickle", snapshot(segments=[unused], device_traces=[trace]))) as view:
        content = SnapshotReporter().render(diagnose(view))
    path = tmp_path / "exported.pickle"
    path.write_bytes(content)
    made = 0
    append = Trace.append

    def counting(self: Trace, item: Any) -> None:
        nonlocal made
        made += 1
        append(self, item)

    monkeypatch.setattr(Trace, "append", counting)
    history = read_snapshot(path)
    assert made == 0
    [device] = history.devices
    assert device.events.address.tolist() == [item["addr"] for item in trace]
    assert device.events.nbytes.tolist() == [item["size"] for item in trace]
    lines = {history.stacks[number][-1] for number in set(device.events.stack.tolist()) if number >= 0}
    assert {(line.file, line.line, line.function) for line in lines} == {(USER["filename"], USER["line"], USER["name"])}
    again = write(tmp_path / "again.pickle", pickle.loads(content))
    assert read_snapshot(again).devices[0].events.time_ns.tolist() == device.events.time_ns.tolist()

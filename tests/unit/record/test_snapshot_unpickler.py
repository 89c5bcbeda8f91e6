"""Traces read many entries at once equal traces read entry by entry, and both equal what the pickle says."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memprof.record import snapshot_unpickler
from memprof.record.blocks import AllocatorHistory, BlockAction, BlockEvents
from memprof.record.snapshot import read_snapshot
from memprof.record.snapshot_unpickler import SnapshotUnpickler
from memprof.record.trace import StackTable, Trace
from tests.unit.record.snapshots import BASE, TORCH, USER, entry, segment, snapshot, write

_ACTIONS = ("alloc", "free_requested", "free_completed", "segment_alloc", "segment_free", "snapshot", "made up")


def entries(events: BlockEvents, stacks: Any) -> list[tuple[Any, ...]]:
    """Rows that can be compared: the numbers of stacks depend on the order they are met in."""
    columns = (events.action, events.time_ns, events.address, events.nbytes, events.stream, events.stack)
    return [
        (*row[:5], stacks[row[5]] if row[5] >= 0 else None, events.device_free.get(number))
        for number, row in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    ]


def expected(trace: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The same from the dictionaries."""
    codes = {action.name.lower(): int(action) for action in BlockAction}
    return [
        (
            codes.get(item["action"], int(BlockAction.OTHER)),
            item["time_us"] * 1000 if "time_us" in item else -1,
            item.get("addr", -1),
            item["size"],
            item.get("stream", 0),
            tuple((f["filename"], f["line"], f["name"]) for f in item["frames"]) if item.get("frames") else None,
            item.get("device_free"),
        )
        for item in trace
    ]


def history_of(path: Path, *, quick: bool = True) -> tuple[list[Trace], StackTable]:
    stacks = StackTable()
    with open(path, "rb") as file:
        return SnapshotUnpickler(file, stacks, quick=quick).load()["device_traces"], stacks


def make_trace(count: int, seed: int, *, plain: bool = False) -> list[dict[str, Any]]:
    """Entries as torch writes them, with all that may differ between two of them."""
    chance = random.Random(seed)
    frames = [{"name": f"f{n}", "filename": f"/home/u/{n % 7}.py", "line": n % 300} for n in range(60)]
    made: list[dict[str, Any]] = []
    lists: list[list[Any]] = [[]]
    for number in range(count):
        item = entry(
            chance.choice(_ACTIONS),
            chance.choice([0, 200, 70_000, 1 << 31, BASE + 512 * number]),
            chance.choice([0, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 31, 1 << 40]),
            1_700_000_000_000_000 + number,
        )
        kind = chance.random()
        if kind < 0.2:
            item["frames"] = chance.choice(lists)
        elif kind < 0.9:
            item["frames"] = [chance.choice(frames) for _ in range(chance.choice([0, 1, 2, 5, 40]))]
            lists.append(item["frames"])
        if plain:
            made.append(item)
            continue
        if chance.random() < 0.5:
            item["compile_context"] = "".join(("N", "/A"))
        if chance.random() < 0.3:
            item["user_metadata"] = chance.choice(["", "x" * 300, f"step {number}", "ä" * 40])
        if chance.random() < 0.02:
            item |= {"forward_frames": ["a", "b"]}
        if chance.random() < 0.02:
            item |= {"device_free": number}
        if chance.random() < 0.02:
            del item["time_us"]
        if chance.random() < 0.02:
            item["stream"] = 0x5588AA001234
        if chance.random() < 0.02:
            item["pool_id"] = (0, 1)
        made.append(item)
    return made


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 30),
    counts=st.lists(st.sampled_from([0, 1, 2, 999, 1000, 1001, 2500]), min_size=1, max_size=3),
    protocol=st.sampled_from([2, 4, 4, 5]),
    plain=st.booleans(),
)
def test_many_at_once_equals_one_by_one(
    tmp_path: Path, seed: int, counts: list[int], protocol: int, plain: bool
) -> None:
    traces = [make_trace(count, seed + place, plain=plain) for place, count in enumerate(counts)]
    # Segments make every trace a device, also an empty one.
    held = [segment(BASE + (place << 30), device=place) for place in range(len(traces))]
    path = write(tmp_path / "memory.pickle", snapshot(device_traces=traces, segments=held), protocol)
    history = read_snapshot(path)
    for device, trace in zip(history.devices, traces, strict=True):
        assert entries(device.events, history.stacks) == expected(trace)
    slow, stacks = history_of(path, quick=False)
    for device, raw, trace in zip(history.devices, slow, traces, strict=True):
        if not isinstance(raw, Trace):
            single, raw = raw, Trace(stacks)
            raw.extend(single)
        assert entries(raw.take_events(), stacks.stacks) == expected(trace)
        assert len(device.events) == len(trace)


def test_most_entries_are_never_made_into_dictionaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "memory.pickle", snapshot(device_traces=[make_trace(20_000, 1, plain=True)]))
    made = 0

    def counting(self: Trace, item: Any) -> None:
        nonlocal made
        made += 1
        original(self, item)

    original = Trace.append
    monkeypatch.setattr(Trace, "append", counting)
    (trace,), _ = history_of(path)
    assert len(trace) == 20_000
    assert 0 < made < 2000


def test_what_was_passed_over_and_is_needed_later_is_read_after_all(tmp_path: Path) -> None:
    trace = make_trace(3000, 2, plain=True)
    # One object, first as text that nobody reads, then as the name of a function.
    name = "step one"
    for item in trace:
        item["user_metadata"] = ""
    trace[2500]["user_metadata"] = name
    trace[2900]["frames"] = [{"name": name, "filename": "late.py", "line": 1}]
    path = write(tmp_path / "memory.pickle", snapshot(device_traces=[trace]))
    with pytest.raises(snapshot_unpickler.UnreadError):
        history_of(path)
    history = read_snapshot(path)
    assert entries(history.devices[0].events, history.stacks) == expected(trace)


def test_bytes_that_look_like_an_entry_are_none(tmp_path: Path) -> None:
    trace = make_trace(4000, 3, plain=True)
    look_alike = int.from_bytes(b"}\x94(h\x05h\x06", "little")  # an address whose bytes begin like an entry
    for item in trace[1000::7]:
        item["addr"] = look_alike & ((1 << 47) - 1)
    path = write(tmp_path / "memory.pickle", snapshot(device_traces=[trace]))
    history = read_snapshot(path)
    assert entries(history.devices[0].events, history.stacks) == expected(trace)


def test_host_traces_are_read_flat_or_in_a_list(tmp_path: Path) -> None:
    trace = [entry("alloc", BASE + 512 * n, 512, n, frames=[TORCH, USER]) for n in range(3000)]
    found: list[AllocatorHistory] = []
    for shape in (trace, [trace]):
        data = snapshot(host_segments=[segment(device=-1)], host_traces=shape)
        found.append(read_snapshot(write(tmp_path / "memory.pickle", data)))
    for history in found:
        assert [device.device for device in history.devices] == ["cuda:0", "host"]
        assert entries(history.devices[1].events, history.stacks) == expected(trace)


@pytest.mark.parametrize("value", [-1, 1 << 62, 1 << 70, 1.5, None, "text", True])
@pytest.mark.parametrize("key", ["size", "addr", "time_us", "stream"])
def test_a_wrong_value_is_told_wherever_it_is(tmp_path: Path, key: str, value: Any) -> None:
    from memprof import RecordingError

    trace = make_trace(3000, 4, plain=True)
    trace[2500][key] = value
    with pytest.raises(RecordingError, match="damaged"):
        read_snapshot(write(tmp_path / "memory.pickle", snapshot(device_traces=[trace])))


def test_a_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    from memprof import RecordingError

    whole = pickle.dumps(snapshot(device_traces=[make_trace(3000, 5)]), 4)
    path = tmp_path / "cut.pickle"
    for length in np.linspace(2, len(whole) - 2, 40).astype(int).tolist():
        path.write_bytes(whole[:length])
        with pytest.raises(RecordingError):
            read_snapshot(path)

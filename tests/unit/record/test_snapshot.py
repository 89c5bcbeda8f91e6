"""PyTorch's snapshots: what is read, what is refused, and that nothing else comes out."""

from __future__ import annotations

import gc
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memprof
from memprof import RecordingError
from memprof.model.snapshot import snapshot_totals
from memprof.record.blocks import BlockAction, BlockState
from memprof.record.files import open_file
from memprof.record.snapshot import is_snapshot, read_snapshot
from tests.unit.record import snapshots
from tests.unit.record.snapshots import BASE, MIB, block, entry, segment, snapshot, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.pickle"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_snapshot_of_any_protocol_is_read(path: Path, protocol: int) -> None:
    history = read_snapshot(write(path, snapshot(), protocol))
    (device,) = history.devices
    assert device.device == "cuda:0"
    assert device.events.action.tolist() == [
        BlockAction.SEGMENT_ALLOC,
        BlockAction.ALLOC,
        BlockAction.ALLOC,
        BlockAction.FREE_REQUESTED,
        BlockAction.FREE_COMPLETED,
        BlockAction.OOM,
        BlockAction.OTHER,
    ]
    assert device.events.time_ns.tolist() == [time * 1000 for time in range(10, 17)]
    assert device.events.device_free == {5: 5 * MIB}
    assert device.events.address.tolist()[5] == -1
    stack = history.stacks[device.events.stack[1]]
    assert [(line.file, line.line, line.function) for line in stack] == [
        tuple(frame[key] for key in ("filename", "line", "name")) for frame in (snapshots.TORCH, snapshots.USER)
    ]
    assert gc.isenabled()


def test_totals_are_those_of_the_segments(path: Path) -> None:
    held = segment(
        blocks=[
            block(BASE, 1024),
            block(BASE + 1024, 2048, "active_pending_free"),
            block(BASE + 3072, 2 * MIB - 3072, "inactive"),
        ]
    )
    pool = segment(BASE + 4 * MIB, 20 * MIB, segment_pool_id=(1, 0), segment_type="large", blocks=[
        block(BASE + 4 * MIB, 20 * MIB)
    ])  # fmt: skip
    history = read_snapshot(write(path, snapshot(segments=[pool, held])))
    totals = snapshot_totals(history.devices[0])
    assert totals.reserved_bytes == 22 * MIB
    assert totals.allocated_bytes == held["allocated_size"] + pool["allocated_size"]
    assert totals.active_bytes == held["active_size"] + pool["active_size"]
    assert totals.requested_bytes == held["requested_size"] + pool["requested_size"]
    assert totals.stranded_bytes == totals.largest_free_block_bytes == 2 * MIB - 3072
    assert totals.private_pool_bytes == 20 * MIB


def test_old_and_thin_snapshots_are_read(path: Path) -> None:
    legacy = {
        "device": 1,
        "address": BASE,
        "total_size": 2 * MIB,
        "stream": 0,
        "blocks": [
            {
                "size": 1024,
                "state": "active_allocated",
                "history": [{"addr": BASE, "real_size": 1000, "frames": [snapshots.USER]}],
            },
            {"size": 2 * MIB - 1024, "state": "inactive"},
        ],
    }
    history = read_snapshot(write(path, {"segments": [legacy]}))
    (device,) = history.devices
    assert device.device == "cuda:1"
    first, second = device.segments[0].blocks
    assert (first.address, first.requested_bytes, second.address) == (BASE, 1000, BASE + 1024)
    assert history.stacks[first.stack][0].line == 12
    assert second.state is BlockState.INACTIVE
    assert not len(device.events)
    assert read_snapshot(write(path, [legacy])).devices[0].segments == device.segments


def test_pinned_host_memory_is_a_device_of_its_own(path: Path) -> None:
    host = segment(BASE, 32768, device=-1, blocks=[block(BASE, 32768)])
    data = snapshot(host_segments=[host], host_traces=[entry("alloc", BASE, 20000)])
    names = [device.device for device in read_snapshot(write(path, data)).devices]
    assert names == ["cuda:0", "host"]


def test_a_snapshot_is_diagnosed_like_a_recording(path: Path) -> None:
    with open_file(write(path, snapshot())) as view:
        diagnosis = memprof.diagnose(view)
    model = diagnosis.model
    assert model.peaks["cuda:0"].allocated_bytes == 1024 + 512
    alive = [storage for storage in model.storages.values() if storage.death_tick is None]
    assert [(storage.nbytes, storage.location.line) for storage in alive if storage.location] == [(1024, 12)]
    assert [finding.code for finding in diagnosis.findings] == ["MP401"]
    assert "8 GiB asked for" in diagnosis.findings[0].message


# ---- what is refused ---------------------------------------------------------------------------


class _Reduce:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


_ATTACKS = {
    "GLOBAL+REDUCE": b"cos\nsystem\n(S'echo'\ntR.",
    "INST": b"(S'echo'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'echo'\no.",
    "NEWOBJ": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "STACK_GLOBAL eval": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x031+1\x85R.",
    "getattr": b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
    "BUILD": b"\x80\x02ccollections\nOrderedDict\n)R}b.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": b"Pthing\n.",
    "BINPERSID": b"\x80\x02U\x01xQ.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "READONLY_BUFFER": b"\x80\x05]\x98.",
    "long string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "long integer": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
    "huge memo": b"\x80\x02K\x07r\xff\xff\xff\x7f.",
    "nested key": b"\x80\x02}" + b")" + b"\x85" * 1000000 + b"Ns.",
    "nested tuple": b"\x80\x04}\x8c\x08segments]}\x8c\x07address)" + b"\x85" * 1000000 + b"sas.",
    "only dictionaries": b"\x80\x04(" + b"}" * (1 << 21) + b"l.",
    "only marks": b"\x80\x04" + b"(" * (1 << 21) + b".",
    "memo without end": b"\x80\x04]" + b"r\x00\x00\x00\x70r\x00\x00\x00\x71" * 300000 + b"N.",
    "memoized nothing": b"\x80\x04\x94.",
    "appended to nothing": b"\x80\x04(K\x01e.",
    "popped": b"\x80\x040.",
    "deep": b"\x80\x02" + b"]" * 100000 + b"a" * 99999 + b".",
    "empty": b"\x80\x04.",
    "nothing": b"",
    "text": b"hello",
    "number": pickle.dumps(7),
    "dictionary": pickle.dumps({"a": 1}),
}


def test_a_device_of_any_number_is_one_device(path: Path) -> None:
    history = read_snapshot(write(path, {"segments": [segment(device=1 << 61)]}))
    assert [device.device for device in history.devices] == [f"cuda:{1 << 61}"]


def test_settings_that_are_no_settings_are_left_out(path: Path) -> None:
    strange: dict[str, Any] = {"max_split_size": 7, "roundup_power2_divisions": {"1": 2, "2": []}, "x": [[]]}
    strange["itself"] = strange
    history = read_snapshot(write(path, snapshot(allocator_settings=strange)))
    assert history.settings["max_split_size"] == 7
    assert history.settings["roundup_power2_divisions"] == {"1": 2}
    assert "x" not in history.settings


@pytest.mark.parametrize("attack", _ATTACKS.values(), ids=_ATTACKS)
def test_nothing_but_an_error_comes_of_an_attack(path: Path, attack: bytes) -> None:
    path.write_bytes(attack)
    with pytest.raises(RecordingError, match="memory"):
        read_snapshot(path)
    assert gc.isenabled()


def test_code_is_refused_by_name_and_not_run(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    write(path, snapshot(segments=_Reduce(target)))
    with pytest.raises(RecordingError, match=r"asks for posix\.mkdir, and a memory snapshot needs no code"):
        read_snapshot(path)
    assert not target.exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"segments": 7},
        {"segments": [7]},
        {"segments": [{}]},
        {"segments": [segment(size=-1)]},
        {"segments": [segment(address=1 << 70)]},
        {"segments": [segment(address=1.5)]},
        {"segments": [segment(blocks=[block(BASE + 512, 1024)])]},
        {"segments": [segment(blocks=[block(BASE, 4 * MIB)])]},
        {"segments": [segment(blocks=[block(BASE, 512, "gone")])]},
        {"segments": [segment(segment_pool_id=("a", 1))]},
        {"segments": [segment(device=True)]},
        {"device_traces": [[{"action": "alloc"}]]},
        {"device_traces": [[entry("alloc", BASE, float("nan"))]]},  # type: ignore[arg-type]
        {"device_traces": [[entry("alloc", BASE, 1, frames=[7])]]},
        {"device_traces": [[entry("alloc", BASE, 1, frames=[{"filename": 7}])]]},
        {"device_traces": {"0": []}},
    ],
)
def test_wrong_values_are_told(path: Path, damage: dict[str, Any]) -> None:
    write(path, {**snapshot(), **damage})
    with pytest.raises(RecordingError, match="no PyTorch memory snapshot, or a damaged one"):
        read_snapshot(path)


def test_is_snapshot_looks_at_what_the_file_holds(path: Path, tmp_path: Path) -> None:
    assert is_snapshot(write(path, snapshot()))
    (tmp_path / "x").write_bytes(b"SQLite format 3\0")
    assert not is_snapshot(tmp_path / "x")
    assert not is_snapshot(tmp_path / "absent")


_VALID = pickle.dumps(snapshot(), protocol=4)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(_VALID) - 1), st.integers(0, 255)), min_size=1, max_size=8),
       cut=st.none() | st.integers(0, len(_VALID)))  # fmt: skip
def test_damaged_bytes_give_a_history_or_a_recording_error(
    tmp_path: Path, changes: list[tuple[int, int]], cut: int | None
) -> None:
    damaged = bytearray(_VALID)
    for place, value in changes:
        damaged[place] = value
    path = tmp_path / "damaged.pickle"
    path.write_bytes(bytes(damaged[:cut]))
    try:
        with open_file(path) as view:
            memprof.diagnose(view)
    except RecordingError:
        pass

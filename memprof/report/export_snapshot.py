"""The storages of a run as a memory snapshot that PyTorch's own viewer (pytorch.org/memory_viz) opens.

Every storage, on whatever device, becomes a block at a made-up address. When it was allocated and freed,
its size, line, op, module and category are what was recorded; addresses, segments and gaps between blocks
are not, and say nothing about fragmentation.

Source:
    `torch.cuda.memory._snapshot`, `torch/cuda/_memory_viz.py` and MemoryViz.js, torch 2.13.0.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from memprof.model.lifetimes import IntArray
from memprof.model.storages import CATEGORIES, StorageTable, table_of
from memprof.report.address_space import AddressSpace, round_up
from memprof.report.run_marks import first_moment_ns, iteration_stretches, phase_stretches
from memprof.report.safe_json import safe_text

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis
    from memprof.model.memory import MemoryModel
    from memprof.record.events import Location

Frames = list[dict[str, Any]]

_PICKLE_PROTOCOL = 4
"""The newest that MemoryViz.js reads."""
_FIRST_ADDRESS = 1 << 32
"""Far from 0, and every address after it still exact as a JavaScript number."""
_UNKNOWN_CATEGORY = "unknown"
"""MemoryViz.js fails on a snapshot whose categories do not have it among them."""
_WITHOUT_MEMORY = "meta"


class SnapshotReporter:
    """Writes the storages of a run as a snapshot pickle of plain types."""

    name: ClassVar[str] = "snapshot"
    suffixes: ClassVar[tuple[str, ...]] = (".pickle",)

    def render(self, diagnosis: Diagnosis) -> bytes:
        """Give the snapshot as the content of a file.

        Args:
            diagnosis: What to export; without watched storages the snapshot is empty but valid.

        Returns:
            A pickle of dicts, lists, strings and numbers.
        """
        return pickle.dumps(snapshot_document(diagnosis.model), protocol=_PICKLE_PROTOCOL)


def device_indices(devices: tuple[str, ...]) -> dict[str, int]:
    """Number devices as a snapshot does: `cuda:1` is 1, a device without a number comes after all others.

    Args:
        devices: Device names, in the order of the run.

    Returns:
        Device -> its index; each index once.
    """
    wanted = {device: device.rpartition(":")[2] for device in devices}
    found: dict[str, int] = {}
    for device, number in sorted(wanted.items(), key=lambda item: not item[0].startswith("cuda")):
        if number.isdecimal() and ":" in device and int(number) not in found.values():
            found[device] = int(number)
    for device in devices:
        if device not in found:
            found[device] = max(found.values(), default=-1) + 1
    return found


def snapshot_document(model: MemoryModel) -> dict[str, Any]:
    """Put the storages of a run into the shape of `torch.cuda.memory._snapshot()`.

    Args:
        model: The run.

    Returns:
        Plain values only.
    """
    table = table_of(model.storages)
    names = dict.fromkeys((*model.devices, *table.lifetimes.devices))
    indices = device_indices(tuple(name for name in names if name.partition(":")[0] != _WITHOUT_MEMORY))
    clock = _Clock(model, table)
    frames = _FrameCache(table)
    traces: list[list[dict[str, Any]]] = [[] for _ in range(max(indices.values(), default=-1) + 1)]
    segments = []
    for device, index in indices.items():
        trace, segment = _device(table, device, index, clock, frames)
        _insert_ooms(trace, model, device, clock)
        traces[index] = trace
        if segment is not None:
            segments.append(segment)
    segments.sort(key=lambda segment: segment["address"])
    return {
        "segments": segments,
        "device_traces": traces,
        "allocator_settings": _plain(model.run.allocator_settings),
        "external_annotations": _annotations(model, sorted(indices.values()), clock),
    }


class _Clock:
    """From the recording's clock to microseconds since 1970."""

    def __init__(self, model: MemoryModel, table: StorageTable) -> None:
        births = table.lifetimes.birth_ns
        first = first_moment_ns(model)
        self._first_ns = min(first, int(births.min())) if len(births) and first else first
        self._offset_us = model.run.started_unix_ns // 1000

    def __call__(self, time_ns: int) -> int:
        return self._offset_us + max(0, time_ns - self._first_ns) // 1000

    def all(self, times_ns: IntArray) -> IntArray:
        """The same for many times at once."""
        return self._offset_us + np.maximum(times_ns - self._first_ns, 0) // 1000


class _FrameCache:
    """Frames of storages; those that came about in the same way share one list, so that the pickle does too."""

    def __init__(self, table: StorageTable) -> None:
        self._table = table.lifetimes
        self._made: dict[tuple[int, ...], Frames] = {}

    def __call__(self, key: tuple[int, ...]) -> Frames:
        """Frames for codes of op, module, forward location and location, innermost first as torch has them."""
        known = self._made.get(key)
        if known is None:
            table = self._table
            op, module = table.ops[key[0]], table.modules[key[1]]
            known = [{"filename": "op", "line": 0, "name": safe_text(op)}]
            if module is not None:
                name = f"{module.path or '(root)'} ({module.type_name})"
                known.append({"filename": "module", "line": 0, "name": safe_text(name)})
            forward, location = table.locations[key[2]], table.locations[key[3]]
            if forward is not None:
                known.append({**_frame(forward), "name": safe_text(f"{forward.function} (forward)")})
            if location is not None:
                known.append(_frame(location))
            self._made[key] = known
        return known


def _frame(location: Location) -> dict[str, Any]:
    return {"filename": safe_text(location.file), "line": location.line, "name": safe_text(location.function)}


def _device(
    table: StorageTable, device: str, index: int, clock: _Clock, frames: _FrameCache
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Trace entries of one device, and the segment that holds its blocks."""
    columns = table.lifetimes
    code = columns.devices.index(device) if device in columns.devices else -1
    rows = np.flatnonzero((columns.device == code) & (columns.nbytes > 0))
    if not len(rows):
        return [], None
    dead = np.flatnonzero(columns.died[rows])
    # Event 2k is the birth of the k-th row, 2k + 1 its death.
    times = np.concatenate((columns.birth_ns[rows], columns.death_ns[rows[dead]]))
    ticks = np.concatenate((columns.birth_tick[rows], columns.death_tick[rows[dead]]))
    events = np.concatenate((np.arange(len(rows)) * 2, dead * 2 + 1))
    order = np.lexsort((events, times, ticks))
    # Time never goes back in a trace, whatever the clocks of two ticks say.
    times_us = clock.all(np.maximum.accumulate(times[order])).tolist()
    sizes = columns.nbytes[rows].tolist()
    rounded = [round_up(nbytes) for nbytes in sizes]
    keys = np.stack((columns.op, columns.module, columns.forward_location, columns.location), axis=1)[rows].tolist()
    stack: list[Frames] = [frames(tuple(key)) for key in keys]
    names = [_UNKNOWN_CATEGORY if category is None else category.value.lower() for category in CATEGORIES]
    categories = [names[code] for code in table.category[rows].tolist()]

    space = AddressSpace(_FIRST_ADDRESS * (index + 1) * 256)
    live: dict[int, int] = {}
    trace: list[dict[str, Any]] = [{}]
    # fmt: off
    for event, time_us in zip(events[order].tolist(), times_us, strict=True):
        row, dies = divmod(event, 2)
        nbytes, made_by = sizes[row], stack[row]
        if dies:
            address = live.pop(row)
            space.give_back(address, rounded[row])
            freed = {"addr": address, "size": nbytes, "stream": 0, "time_us": time_us, "frames": made_by}
            trace += ({"action": "free_requested", **freed}, {"action": "free_completed", **freed})
        else:
            address = live[row] = space.take(rounded[row])
            trace.append({
                "action": "alloc", "addr": address, "size": nbytes, "stream": 0,
                "time_us": time_us, "frames": made_by, "category": categories[row],
            })
    # fmt: on
    trace[0] = {
        "action": "segment_alloc",
        "addr": space.base,
        "size": space.end - space.base,
        "stream": 0,
        "time_us": times_us[0],
        "frames": [],
        "category": _UNKNOWN_CATEGORY,
    }
    blocks = [_block(address, sizes[row], stack[row]) for row, address in live.items()]
    return trace, _segment(index, space, blocks)


def _block(address: int, nbytes: int, frames: Frames) -> dict[str, Any]:
    return {
        "address": address,
        "size": round_up(nbytes),
        "requested_size": nbytes,
        "state": "active_allocated",
        "frames": frames,
    }


def _segment(index: int, space: AddressSpace, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    held = sum(block["size"] for block in blocks)
    requested = sum(block["requested_size"] for block in blocks)
    for address, size in space.holes():
        blocks.append({"address": address, "size": size, "requested_size": 0, "state": "inactive", "frames": []})
    blocks.sort(key=lambda block: block["address"])
    return {
        "device": index,
        "address": space.base,
        "total_size": space.end - space.base,
        "allocated_size": held,
        "active_size": held,
        "requested_size": requested,
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
    }


def _insert_ooms(trace: list[dict[str, Any]], model: MemoryModel, device: str, clock: _Clock) -> None:
    """Out-of-memory errors, where they happened; the viewer cannot show one whose free memory is unknown."""
    found = []
    for oom in model.ooms:
        if oom.device == device and oom.free_bytes is not None:
            frames = [] if oom.location is None else [_frame(oom.location)]
            entry = {"action": "oom", "size": oom.requested_bytes, "device_free": oom.free_bytes, "stream": 0}
            found.append({**entry, "time_us": clock(oom.time_ns), "frames": frames})
    if found:
        trace.extend(found)
        trace.sort(key=lambda entry: entry["time_us"])  # stable: what was in order stays so


def _annotations(model: MemoryModel, indices: list[int], clock: _Clock) -> list[dict[str, Any]]:
    """Starts and ends of iterations and phases, for every device."""
    marks = []
    for stretch in (*iteration_stretches(model), *phase_stretches(model)):
        for stage, time_ns in (("START", stretch.start_ns), ("END", stretch.end_ns)):
            marks.append((clock(time_ns), stage, stretch.name))
    marks.sort(key=lambda mark: mark[0])
    return [
        {"device": index, "name": name, "stage": stage, "time_us": time_us}
        for index in indices
        for time_us, stage, name in marks
    ]


def _plain(value: object) -> Any:
    """Plain types only, so that a restricted unpickler takes them."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {safe_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return safe_text(str(value))

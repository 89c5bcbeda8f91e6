"""The storages of a run as a memory snapshot that PyTorch's own viewer (pytorch.org/memory_viz) opens.

Every storage, on whatever device, becomes a block (`report/snapshot_trace.py`). When it was allocated and freed, its
size, line, op, module and category are what was recorded.

Source:
    `torch.cuda.memory._snapshot`, `torch/cuda/_memory_viz.py` and MemoryViz.js, torch 2.13.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from memprof.model.lifetimes import IntArray
from memprof.model.storages import CATEGORIES, StorageTable, table_of
from memprof.record.blocks import BlockAction
from memprof.report.pickle_stream import PickleStream, Reference, places_of
from memprof.report.run_marks import first_moment_ns, iteration_stretches, phase_stretches
from memprof.report.safe_json import safe_text
from memprof.report.snapshot_trace import Trace, TraceSegment, trace_of

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis
    from memprof.model.memory import MemoryModel
    from memprof.record.events import Location

Frames = list[dict[str, Any]]

_SMALL_SEGMENT_BYTES = 2 << 20
"""Size of a segment of the small pool.

Source:
    `kSmallBuffer`, c10/core/AllocatorConfig.h, torch 2.13.0.
"""
_KEYS = ("action", "addr", "size", "stream", "time_us", "frames", "category")
_UNKNOWN_CATEGORY = "unknown"
"""MemoryViz.js fails on a snapshot whose categories do not have it among them."""
_CATEGORY_WORDS = tuple(_UNKNOWN_CATEGORY if category is None else category.value.lower() for category in CATEGORIES)
_ACTIONS = tuple(action.name.lower() for action in BlockAction)
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
        return write_document(diagnosis.model)


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


def write_document(model: MemoryModel) -> bytes:
    """Write the storages of a run in the shape of `torch.cuda.memory._snapshot()`.

    Args:
        model: The run.

    Returns:
        A pickle of plain values. Besides the keys of a snapshot it has `memprof`, where the stacks and words lie that
        entries share; viewers pass it over.
    """
    table = table_of(model.storages)
    names = dict.fromkeys((*model.devices, *table.lifetimes.devices))
    indices = device_indices(tuple(name for name in names if name.partition(":")[0] != _WITHOUT_MEMORY))
    clock = _Clock(model, table)
    stream = PickleStream()
    stream.raw(b"}(")
    shared = _Shared(stream, table)
    histories = {device: trace_of(model, table, device, index) for device, index in indices.items()}
    segments = [segment for history in histories.values() for segment in history.segments]
    stream.text("segments")
    stream.value([_segment(segment, shared) for segment in sorted(segments, key=lambda segment: segment.address)])
    stream.text("device_traces")
    stream.raw(b"]")
    by_index = {index: device for device, index in indices.items()}
    for index in range(max(indices.values(), default=-1) + 1):
        stream.raw(b"]")
        if index in by_index:
            device = by_index[index]
            _write_trace(stream, histories[device], _ooms(model, device, clock), clock, shared)
        stream.raw(b"a")
    stream.text("allocator_settings")
    stream.value(_plain(model.run.allocator_settings))
    stream.text("external_annotations")
    stream.value(_annotations(model, sorted(indices.values()), clock))
    stream.raw(b"u")
    return stream.finish()


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


class _Shared:
    """What entries have in common, with its place in the pickle's memo."""

    def __init__(self, stream: PickleStream, table: StorageTable) -> None:
        columns = table.lifetimes
        sizes = [max(1, len(values)) for values in (columns.ops, columns.modules, columns.locations)]
        # One number for op, module, forward location and location.
        key = columns.op + sizes[0] * (
            columns.module + sizes[1] * (columns.forward_location + sizes[2] * columns.location)
        )
        keys, row_of, self._stack_of_row = np.unique(key, return_index=True, return_inverse=True)
        del key, keys
        stream.text("memprof")
        stream.raw(b"}(")
        stream.text("words")
        stream.raw(b"](")
        self._words = {word: stream.text(word) for word in (*_KEYS, *_ACTIONS, *_CATEGORY_WORDS)}
        stream.raw(b"e")
        stream.text("stacks")
        stacks: list[Frames] = [[], *(_frames(table, row) for row in row_of.tolist())]
        self._stacks = places_of(stream, stacks)
        stream.raw(b"u")
        self._category_of_row = table.category

    def stacks(self, rows: IntArray) -> IntArray:
        """Places of the stacks of storages; row -1 is none."""
        place: IntArray = self._stacks[np.where(rows >= 0, self._stack_of_row[rows] + 1, 0)]
        return place

    def categories(self, rows: IntArray) -> IntArray:
        """Places of the names of categories of storages; row -1 is of none."""
        places = np.array([self._words[word] for word in _CATEGORY_WORDS], np.int64)
        none = self._words[_UNKNOWN_CATEGORY]
        found: IntArray = np.where(rows >= 0, places[self._category_of_row[rows]], none)
        return found

    def actions(self, actions: IntArray) -> IntArray:
        """Places of the names of actions."""
        places = np.array([self._words[word] for word in _ACTIONS], np.int64)
        found: IntArray = places[actions]
        return found


def _frames(table: StorageTable, row: int) -> Frames:
    """Frames of a storage, innermost first as torch has them; op and module are frames of their own."""
    columns = table.lifetimes
    op, module = columns.ops[columns.op[row]], columns.modules[columns.module[row]]
    frames = [{"filename": "op", "line": 0, "name": safe_text(op)}]
    if module is not None:
        name = f"{module.path or '(root)'} ({module.type_name})"
        frames.append({"filename": "module", "line": 0, "name": safe_text(name)})
    forward, location = columns.locations[columns.forward_location[row]], columns.locations[columns.location[row]]
    if forward is not None:
        frames.append({**_frame(forward), "name": safe_text(f"{forward.function} (forward)")})
    if location is not None:
        frames.append(_frame(location))
    return frames


def _frame(location: Location) -> dict[str, Any]:
    return {"filename": safe_text(location.file), "line": location.line, "name": safe_text(location.function)}


def _write_trace(
    stream: PickleStream, trace: Trace, ooms: list[dict[str, Any]], clock: _Clock, shared: _Shared
) -> None:
    """Append the entries of a device, with its out-of-memory errors where they happened, to the list begun last."""
    # Time never goes back in a trace, whatever the clocks of two ticks say.
    time_us = clock.all(np.maximum.accumulate(trace.time_ns)) if len(trace) else trace.time_ns
    edges = np.searchsorted(time_us, [oom["time_us"] for oom in ooms], side="right").tolist()
    for first, last, oom in zip([0, *edges], [*edges, len(trace)], [*ooms, None], strict=True):
        part = slice(first, last)
        if last > first:
            stream.entries(
                {
                    "addr": trace.address[part],
                    "size": trace.nbytes[part],
                    "stream": trace.stream[part],
                    "time_us": time_us[part],
                },
                {
                    "action": shared.actions(trace.action[part]),
                    "frames": shared.stacks(trace.row[part]),
                    "category": shared.categories(trace.row[part]),
                },
            )
        if oom is not None:
            stream.value(oom)
            stream.raw(b"a")


def _segment(segment: TraceSegment, shared: _Shared) -> dict[str, Any]:
    stacks = shared.stacks(np.array([block.row for block in segment.blocks], np.int64)).tolist()
    blocks = [
        {
            "address": block.address,
            "size": block.nbytes,
            "requested_size": block.requested_bytes,
            "state": "inactive" if block.row < 0 else "active_allocated",
            "frames": Reference(stack),
        }
        for block, stack in zip(segment.blocks, stacks, strict=True)
    ]
    held = sum(block.nbytes for block in segment.blocks if block.row >= 0)
    return {
        "device": segment.index,
        "address": segment.address,
        "total_size": segment.nbytes,
        "allocated_size": held,
        "active_size": held,
        "requested_size": sum(block.requested_bytes for block in segment.blocks if block.row >= 0),
        "stream": segment.stream,
        "segment_type": "large" if segment.nbytes > _SMALL_SEGMENT_BYTES else "small",
        "segment_pool_id": (0, 0),
        "is_expandable": segment.expandable,
        "frames": [],
        "blocks": blocks,
    }


def _ooms(model: MemoryModel, device: str, clock: _Clock) -> list[dict[str, Any]]:
    """Out-of-memory errors by time; the viewer cannot show one whose free memory is unknown."""
    found = []
    for oom in model.ooms:
        if oom.device == device and oom.free_bytes is not None:
            frames = [] if oom.location is None else [_frame(oom.location)]
            entry = {"action": "oom", "size": oom.requested_bytes, "device_free": oom.free_bytes, "stream": 0}
            found.append({**entry, "time_us": clock(oom.time_ns), "frames": frames})
    return sorted(found, key=lambda entry: entry["time_us"])


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

"""Opens PyTorch's memory snapshot pickles, of torch 2.0 and later, without running anything in them.

Source:
    `torch/cuda/memory.py` (`_snapshot`, `memory_snapshot`) and `torch/cuda/_memory_viz.py`, torch 2.14.1.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memprof._collection import collection_paused
from memprof._errors import RecordingError
from memprof.record.blocks import (
    DEFAULT_POOL,
    AllocatorHistory,
    Block,
    BlockState,
    DeviceHistory,
    Segment,
)
from memprof.record.plain_pickle import RefusedError
from memprof.record.snapshot_unpickler import SnapshotUnpickler, UnreadError
from memprof.record.trace import KnownStack, StackTable, Trace, integer

_STATES = {
    "inactive": BlockState.INACTIVE,
    "active_allocated": BlockState.ACTIVE_ALLOCATED,
    "active_awaiting_free": BlockState.ACTIVE_AWAITING_FREE,
    "active_pending_free": BlockState.ACTIVE_AWAITING_FREE,
}
_SMALL_BYTES = 1 << 20
_DAMAGE = (
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
)


def is_snapshot(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts like a pickle; nothing of it is loaded.

    Args:
        path: Any file.

    Returns:
        True for a pickle of protocol 2 or later, and for one of protocol 0 or 1 that begins with a dictionary.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(2)
    except OSError:
        return False
    return (len(head) == 2 and head[0] == 0x80 and head[1] <= 5) or head[:1] in (b"(", b"}")


def read_snapshot(path: str | os.PathLike[str]) -> AllocatorHistory:
    """Read a snapshot written by `torch.cuda.memory._dump_snapshot`.

    Args:
        path: The pickle.

    Returns:
        Segments as of the snapshot and the trace that led there, of every device that has any.

    Raises:
        RecordingError: The file cannot be read, is damaged, is no snapshot, or asks for code to be run.
    """
    file = Path(path)
    try:
        with collection_paused():  # many dictionaries, none of them garbage: it would go through them again and again
            return _load(file)
    except RefusedError as refused:
        raise RecordingError(
            f"{file} was not opened: it asks for {refused}, and a memory snapshot needs no code; "
            "write it with torch.cuda.memory._dump_snapshot"
        ) from None
    except OSError as error:
        raise RecordingError(f"cannot read {file} ({error.strerror or error})") from error
    except _DAMAGE as error:
        raise RecordingError(f"{file} is no PyTorch memory snapshot, or a damaged one ({_brief(error)})") from error


def _load(file: Path) -> AllocatorHistory:
    with open(file, "rb") as stream:
        try:
            stacks = StackTable()
            return _History(stacks).read(SnapshotUnpickler(stream, stacks).load())
        except UnreadError:  # rare, and slower
            stacks = StackTable()
            stream.seek(0)
            return _History(stacks).read(SnapshotUnpickler(stream, stacks, quick=False).load())


def _brief(error: BaseException) -> str:
    text = str(error).splitlines()[0][:200] if str(error) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _History:
    """Turns the loaded dictionaries into columns, letting go of each trace as it is read."""

    def __init__(self, stacks: StackTable) -> None:
        self._stacks = stacks

    def read(self, data: Any) -> AllocatorHistory:
        if isinstance(data, list):  # memory_snapshot() alone: segments without traces
            data = {"segments": data}
        if not isinstance(data, dict) or not ("segments" in data or "device_traces" in data):
            raise ValueError("it holds no segments")
        segments: dict[int, list[Segment]] = {}
        for raw in _list(data.get("segments")):
            segments.setdefault(integer(raw.get("device", 0), low=-1), []).append(self._segment(raw))
        traces = _list(data.get("device_traces"))
        devices = []
        for index in sorted({*range(len(traces)), *(number for number in segments if number >= 0)}):
            trace = self._trace(traces[index] if index < len(traces) else None)
            if len(trace) or index in segments:
                devices.append(_device(f"cuda:{index}", segments.get(index, []), trace))
        host = [self._segment(raw) for raw in _list(data.get("host_segments"))]
        host_trace = self._trace(data.get("host_traces"))
        if host or len(host_trace):
            devices.append(_device("host", host, host_trace))
        settings = data.get("allocator_settings", {})
        return AllocatorHistory(
            devices=tuple(devices),
            stacks=self._stacks.stacks,
            settings=_plain(settings) if isinstance(settings, dict) else {},
        )

    def _trace(self, raw: Any) -> Trace:
        """The trace of one device; that of the host may lie in a list of its own."""
        if isinstance(raw, Trace):
            return raw
        parts = _list(raw)
        if len(parts) == 1 and isinstance(parts[0], (Trace, list)):
            return self._trace(parts[0])
        trace = Trace(self._stacks)
        for part in parts:
            trace.extend(part if isinstance(part, list) else [part])
        return trace

    def _stack_of(self, frames: Any) -> int:
        return frames.number if isinstance(frames, KnownStack) else self._stacks.number(frames)

    def _segment(self, raw: Mapping[str, Any]) -> Segment:
        address = integer(raw["address"])
        nbytes = integer(raw["total_size"])
        blocks = []
        at = address
        for item in _list(raw.get("blocks")):
            size = integer(item["size"])
            where = integer(item.get("address", at))
            requested, stack = size, self._stack_of(item.get("frames"))
            history = item.get("history")
            if history:  # torch 2.0: the tenants of the block, the latest first
                latest = history[0]
                requested = integer(latest.get("real_size", size))
                stack = self._stack_of(latest.get("frames"))
            state = _STATES.get(item.get("state", "inactive"))
            if state is None:
                raise ValueError(f"unknown block state {item.get('state')!r}")
            if where != at or where + size > address + nbytes:
                raise ValueError(f"blocks do not tile the segment at {address:#x}")
            blocks.append(Block(where, size, integer(item.get("requested_size", requested)), state, stack))
            at = where + size
        pool = tuple(raw.get("segment_pool_id", DEFAULT_POOL))
        kind = raw.get("segment_type")
        return Segment(
            address=address,
            nbytes=nbytes,
            stream=integer(raw.get("stream", 0)),
            large=kind == "large" if kind is not None else any(block.nbytes > _SMALL_BYTES for block in blocks),
            pool_id=(integer(pool[0]), integer(pool[1])),
            expandable=bool(raw.get("is_expandable", False)),
            blocks=tuple(blocks),
            stack=self._stack_of(raw.get("frames")),
        )


def _device(name: str, segments: list[Segment], trace: Trace) -> DeviceHistory:
    return DeviceHistory(name, tuple(sorted(segments, key=lambda item: item.address)), trace.take_events())


def _plain(settings: Mapping[Any, Any]) -> dict[str, object]:
    """Settings that are numbers or text, or name such (`roundup_power2_divisions`)."""
    kept: dict[str, object] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            kept[str(name)] = {str(key): item for key, item in value.items() if isinstance(item, (str, int, float))}
        elif value is None or isinstance(value, (str, int, float)):
            kept[str(name)] = value
    return kept


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value) if isinstance(value, tuple) else value
    raise TypeError(f"a list was expected, not {type(value).__name__}")

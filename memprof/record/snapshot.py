"""Opens PyTorch's memory snapshot pickles, of torch 2.0 and later, without running anything in them.

Source:
    `torch/cuda/memory.py` (`_snapshot`, `memory_snapshot`) and `torch/cuda/_memory_viz.py`, torch 2.14.1.
"""

from __future__ import annotations

import gc
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from memprof._errors import RecordingError
from memprof.record.blocks import (
    DEFAULT_POOL,
    AllocatorHistory,
    Block,
    BlockAction,
    BlockEvents,
    BlockState,
    DeviceHistory,
    Segment,
)
from memprof.record.events import Location

_ACTIONS = {action.name.lower(): int(action) for action in BlockAction}
_STATES = {
    "inactive": BlockState.INACTIVE,
    "active_allocated": BlockState.ACTIVE_ALLOCATED,
    "active_awaiting_free": BlockState.ACTIVE_AWAITING_FREE,
    "active_pending_free": BlockState.ACTIVE_AWAITING_FREE,
}
_SMALL_BYTES = 1 << 20
_LIMIT = 1 << 62
_DAMAGE = (
    pickle.UnpicklingError,
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


class _Refused(Exception):
    """The pickle asks for something to be imported, called or looked up."""


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, tuples, strings and numbers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002 - the name is pickle's
        raise _Refused("a persistent object")


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
    collecting = gc.isenabled()
    gc.disable()  # millions of dictionaries, none of them garbage: collecting takes most of the time
    try:
        with open(file, "rb") as stream:
            data = _Unpickler(stream).load()
        return _History(file).read(data)
    except _Refused as refused:
        raise RecordingError(
            f"{file} was not opened: it asks for {refused}, and a memory snapshot needs no code; "
            "write it with torch.cuda.memory._dump_snapshot"
        ) from None
    except OSError as error:
        raise RecordingError(f"cannot read {file} ({error.strerror or error})") from error
    except _DAMAGE as error:
        raise RecordingError(f"{file} is no PyTorch memory snapshot, or a damaged one ({_brief(error)})") from error
    finally:
        if collecting:
            gc.enable()


def _brief(error: BaseException) -> str:
    text = str(error).splitlines()[0][:200] if str(error) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _History:
    """Turns the loaded dictionaries into columns, letting go of each trace as it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stacks: dict[tuple[Location, ...], int] = {}
        self._frames: dict[tuple[str, int, str], Location] = {}

    def read(self, data: Any) -> AllocatorHistory:
        if isinstance(data, list):  # memory_snapshot() alone: segments without traces
            data = {"segments": data}
        if not isinstance(data, dict) or not ("segments" in data or "device_traces" in data):
            raise ValueError("it holds no segments")
        segments: dict[int, list[Segment]] = {}
        for raw in _list(data.get("segments")):
            segments.setdefault(_integer(raw.get("device", 0), low=-1), []).append(self._segment(raw))
        traces = _list(data.get("device_traces"))
        devices = []
        for index in range(max([len(traces), *(number + 1 for number in segments)])):
            trace = _list(traces[index]) if index < len(traces) else []
            if trace or index in segments:
                devices.append(self._device(f"cuda:{index}", segments.get(index, []), trace))
                trace.clear()
        host = [self._segment(raw) for raw in _list(data.get("host_segments"))]
        host_trace = _list(data.get("host_traces"))
        if host_trace and isinstance(host_trace[0], list):
            host_trace = [entry for part in host_trace for entry in part]
        if host or host_trace:
            devices.append(self._device("host", host, host_trace))
        settings = data.get("allocator_settings", {})
        return AllocatorHistory(
            devices=tuple(devices),
            stacks=tuple(self._stacks),
            settings=settings if isinstance(settings, dict) else {},
            annotations=tuple(
                (f"cuda:{mark.get('device', 0)}", str(mark.get("name", "")), str(mark.get("stage", "")), time_ns)
                for mark in _list(data.get("external_annotations"))
                if (time_ns := _integer(mark.get("time_us", 0)) * 1000) >= 0
            ),
        )

    def _device(self, name: str, segments: list[Segment], trace: list[Any]) -> DeviceHistory:
        return DeviceHistory(name, tuple(sorted(segments, key=lambda item: item.address)), self._events(trace))

    def _segment(self, raw: Mapping[str, Any]) -> Segment:
        address = _integer(raw["address"])
        nbytes = _integer(raw["total_size"])
        blocks = []
        at = address
        for item in _list(raw.get("blocks")):
            size = _integer(item["size"])
            where = _integer(item.get("address", at))
            requested, stack = size, self._stack(item.get("frames"))
            history = item.get("history")
            if history:  # torch 2.0: the tenants of the block, the latest first
                latest = history[0]
                requested = _integer(latest.get("real_size", size))
                stack = self._stack(latest.get("frames"))
            state = _STATES.get(item.get("state", "inactive"))
            if state is None:
                raise ValueError(f"unknown block state {item.get('state')!r}")
            if where != at or where + size > address + nbytes:
                raise ValueError(f"blocks do not tile the segment at {address:#x}")
            blocks.append(Block(where, size, _integer(item.get("requested_size", requested)), state, stack))
            at = where + size
        pool = tuple(raw.get("segment_pool_id", DEFAULT_POOL))
        kind = raw.get("segment_type")
        return Segment(
            address=address,
            nbytes=nbytes,
            stream=_integer(raw.get("stream", 0)),
            large=kind == "large" if kind is not None else any(block.nbytes > _SMALL_BYTES for block in blocks),
            pool_id=(_integer(pool[0]), _integer(pool[1])),
            expandable=bool(raw.get("is_expandable", False)),
            blocks=tuple(blocks),
            stack=self._stack(raw.get("frames")),
        )

    def _events(self, trace: list[Any]) -> BlockEvents:
        count = len(trace)
        columns = {name: np.full(count, -1, np.int64) for name in ("time_ns", "address", "nbytes", "stream")}
        action = np.full(count, int(BlockAction.OTHER), np.int8)
        stack = np.full(count, -1, np.int32)
        free: dict[int, int] = {}
        # Stacks are shared between entries, so their identity tells most of them apart at once.
        seen: dict[int, int] = {}
        time_ns, address, nbytes, stream = columns.values()
        for row, entry in enumerate(trace):
            action[row] = _ACTIONS.get(entry["action"], int(BlockAction.OTHER))
            nbytes[row] = _integer(entry["size"])
            stream[row] = _integer(entry.get("stream", 0))
            if "time_us" in entry:
                time_ns[row] = _integer(entry["time_us"]) * 1000
            if "addr" in entry:
                address[row] = _integer(entry["addr"])
            if "device_free" in entry:
                free[row] = _integer(entry["device_free"])
            frames = entry.get("frames")
            if frames:
                number = seen.get(id(frames))
                if number is None:
                    number = seen[id(frames)] = self._stack(frames)
                stack[row] = number
        return BlockEvents(action, time_ns, address, nbytes, stream, stack, free)

    def _stack(self, frames: Any) -> int:
        if not frames:
            return -1
        stack = tuple([self._frame(frame) for frame in frames])
        return self._stacks.setdefault(stack, len(self._stacks))

    def _frame(self, frame: Mapping[str, Any]) -> Location:
        key = (frame.get("filename", ""), frame.get("line", 0), frame.get("name", ""))
        found = self._frames.get(key)
        if found is None:
            file, line, name = key
            if not isinstance(file, str) or not isinstance(name, str):
                raise TypeError("a frame's file and function must be text")
            found = self._frames[key] = Location(file, _integer(line), name)
        return found


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value) if isinstance(value, tuple) else value
    raise TypeError(f"a list was expected, not {type(value).__name__}")


def _integer(value: Any, low: int = 0) -> int:
    if type(value) is int and low <= value < _LIMIT:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number was expected, not {type(value).__name__}")
    raise ValueError(f"{value} is out of range")

"""Sees `torch.OutOfMemoryError` where it is raised, whether the script catches it or not."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import perf_counter_ns
from types import FrameType
from typing import Any

import torch

from memprof.capture.compilation import uncompiled
from memprof.capture.frames import UserCode
from memprof.record.events import OutOfMemory, Phase

Observer = Callable[[int, int, int, int], None]

_listeners: list[Observer] = []
_attached: list[bool] = []
"""Not empty once torch calls us."""


def listen(observer: Observer) -> None:
    """Have `observer(device, segment_bytes, total_bytes, free_bytes)` called before each error is raised.

    torch offers no way to detach, so one function of ours stays attached for the life of the process and
    does nothing once nobody listens. CUDA must be initialised.
    """
    _listeners.append(observer)
    attach: Any = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None)
    if not _attached and attach is not None:
        attach(_tell)
        _attached.append(True)


def stop_listening(observer: Observer) -> None:
    """Undo `listen`."""
    _listeners[:] = [item for item in _listeners if item != observer]


@uncompiled
def _tell(device: int, segment_bytes: int, total_bytes: int, free_bytes: int) -> None:
    for observer in _listeners:
        try:
            observer(device, segment_bytes, total_bytes, free_bytes)
        except Exception:  # the allocator is about to raise the error that matters
            pass


def describe(
    device: int,
    segment_bytes: int,
    total_bytes: int,
    free_bytes: int,
    *,
    tick: int,
    phase: Phase,
    code: UserCode,
) -> OutOfMemory:
    """Write down what the allocator looks like while it gives up; allocates nothing on the device.

    Args:
        device: CUDA ordinal.
        segment_bytes: What the allocator wanted from the driver.
        total_bytes: The device's memory or the process's limit.
        free_bytes: What the driver had left.
        tick: The running tick.
        phase: The running phase.
        code: Finds the user's line.

    Returns:
        The facts.
    """
    stats = torch.cuda.memory_stats(device)
    snapshot = torch.cuda.memory._snapshot()
    requested = segment_bytes
    traces = snapshot.get("device_traces") or []
    for entry in reversed(traces[device][-8:] if device < len(traces) else []):
        if entry["action"] == "oom":
            requested = entry["size"]
            break
    stream = torch.cuda.current_stream(device).cuda_stream
    hole = stranded = 0
    large = requested > 1 << 20
    for segment in snapshot["segments"]:
        if segment["device"] != device:
            continue
        free = [block["size"] for block in segment["blocks"] if block["state"] == "inactive"]
        if (segment["segment_type"] == "large") == large and segment["stream"] == stream:
            hole = max([hole, *free])
        if len(segment["blocks"]) > 1:
            stranded += sum(free)
    frame = code.innermost(sys._getframe()) or _main_frame(code)
    return OutOfMemory(
        tick=tick,
        time_ns=perf_counter_ns(),
        device=f"cuda:{device}",
        phase=phase,
        requested_bytes=requested,
        segment_bytes=segment_bytes,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        allocated_bytes=stats.get("allocated_bytes.all.current", 0),
        reserved_bytes=stats.get("reserved_bytes.all.current", 0),
        largest_hole_bytes=hole,
        stranded_bytes=stranded,
        location=None if frame is None else code.location(frame),
        operations=stats.get("allocation.all.allocated", 0) + stats.get("allocation.all.freed", 0),
    )


def _main_frame(code: UserCode) -> FrameType | None:
    """The user's line in the main thread, where backward runs on a thread of the autograd engine."""
    return code.innermost(sys._current_frames().get(threading.main_thread().ident or 0))

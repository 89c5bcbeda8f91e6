"""Streams, events and other things of `torch.cuda` that order work on a GPU; on a simulated one all work is done."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch

_CUDA = 1
"""`c10::DeviceType::CUDA`."""


class CurrentStreams(threading.local):
    """The current device of a thread, and its current stream of each device.

    Args:
        count: How many devices there are.
    """

    _numbers = itertools.count(1)
    """Of new streams; all threads take from it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.device = 0
        self._streams = [0] * count

    def of(self, index: int) -> int:
        """The current stream of a device."""
        return self._streams[index]

    def choose(self, index: int, stream: int) -> None:
        """Make a stream the current one of its device."""
        self._streams[index] = stream

    def new(self) -> int:
        """The number of a new stream."""
        return next(self._numbers)

    def exchange(self, index: int) -> int:
        """Make a device the current one, unless `index` is negative; returns the one before."""
        before = self.device
        if index >= 0:
            self.choose_device(index)
        return before

    def choose_device(self, index: int) -> None:
        """Make a device the current one."""
        if not 0 <= index < self.count:
            raise (
                torch.AcceleratorError("CUDA error: invalid device ordinal")
                if hasattr(torch, "AcceleratorError")
                else RuntimeError("CUDA error: invalid device ordinal")
            )
        self.device = index


def stream_classes(current: CurrentStreams) -> dict[str, type]:
    """Classes in place of those in `torch.cuda`, by their names there.

    Args:
        current: What they change.
    """

    class Stream:
        """In place of `torch.cuda.Stream`."""

        def __init__(
            self,
            device: Any = None,
            priority: int = 0,
            *,
            stream_id: int | None = None,
            device_index: int | None = None,
            device_type: int = _CUDA,
            stream_ptr: int | None = None,
        ) -> None:
            if device_index is None:
                given = None if device is None else torch.device(device) if not isinstance(device, int) else device
                device_index = given if isinstance(given, int) else None if given is None else given.index
            self.device_index = current.device if device_index is None else device_index
            self.stream_id = current.new() if stream_id is None else stream_id
            self.device_type = device_type
            self.priority = priority

        @property
        def device(self) -> torch.device:
            return torch.device("cuda", self.device_index)

        @property
        def cuda_stream(self) -> int:
            return self.stream_id

        @property
        def native_handle(self) -> int:
            return self.stream_id

        def query(self) -> bool:
            return True

        def is_capturing(self) -> bool:
            return False

        def synchronize(self) -> None:
            pass

        def wait_stream(self, stream: Any) -> None:
            pass

        def wait_event(self, event: Any) -> None:
            pass

        def record_event(self, event: Any = None) -> Any:
            event = Event() if event is None else event
            event.record(self)
            return event

        def __enter__(self) -> Any:
            self._context = torch.cuda.stream(self)  # type: ignore[arg-type]
            self._context.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self._context.__exit__(*error)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Stream) and (self.stream_id, self.device_index) == (
                other.stream_id,
                other.device_index,
            )

        def __hash__(self) -> int:
            return hash((self.stream_id, self.device_index))

        def __repr__(self) -> str:
            return f"<torch.cuda.Stream device={self.device} cuda_stream={self.stream_id:#x}>"

    class Event:
        """In place of `torch.cuda.Event`; host times."""

        def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, **_: Any):
            self._timed = enable_timing
            self._recorded_ns: int | None = None

        def record(self, stream: Any = None) -> None:
            self._recorded_ns = time.perf_counter_ns()

        def wait(self, stream: Any = None) -> None:
            pass

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end_event: Any) -> float:
            if self._recorded_ns is None or end_event._recorded_ns is None:
                raise ValueError("Both events must be recorded before calculating elapsed time.")
            if not (self._timed and end_event._timed):
                raise ValueError("Both events must be created with argument 'enable_timing=True'.")
            return float((end_event._recorded_ns - self._recorded_ns) / 1e6)

    class CUDAGraph:
        """In place of `torch.cuda.CUDAGraph`."""

        def __init__(self, *_: Any, **__: Any) -> None:
            no_graphs()

    return {"Stream": Stream, "Event": Event, "CUDAGraph": CUDAGraph}


def no_graphs(*_: Any, **__: Any) -> NoReturn:
    """Refuse to capture a CUDA graph."""
    raise NotImplementedError(
        "a GPU simulated by memprof captures no CUDA graphs; switch graph capture off for this run "
        "(mode='reduce-overhead' of torch.compile uses it too)"
    )


class QuietNvtx:
    """In place of NVTX, which only profilers of NVIDIA's read."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *_args, **_kwargs: 0

"""A GPU that is not there: PyTorch's caching allocator for one device, with its counters, history and errors.

Source:
    Statistics, snapshot keys and the wording of the error are those of torch 2.14.1
    (c10/cuda/CUDACachingAllocator.cpp, torch/csrc/cuda/memory_snapshot.cpp).
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch

from memprof._errors import UsageError
from memprof.record.blocks import BlockState
from memprof.simulate.allocator import CachingAllocator
from memprof.simulate.driver import FirstFitDriver
from memprof.simulate.out_of_memory import SimulatedOutOfMemory
from memprof.simulate.settings import AllocatorSettings

if TYPE_CHECKING:
    from memprof.simulate.gpus import Gpu

_OUR_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MAX_FRAMES = 64
_STATES = {
    BlockState.INACTIVE: "inactive",
    BlockState.ACTIVE_ALLOCATED: "active_allocated",
    BlockState.ACTIVE_AWAITING_FREE: "active_awaiting_free",
}
_DOCUMENTATION = (
    "https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf"
)
OomObserver = Callable[[int, int, int, int], None]


class _NotingDriver(FirstFitDriver):
    """Tells which segments came and went."""

    def __init__(self, total_bytes: int, taken_bytes: int, note: Callable[[str, int, int], None]) -> None:
        super().__init__(total_bytes, taken_bytes=taken_bytes)
        self._note = note
        self._sizes: dict[int, int] = {}

    def malloc(self, nbytes: int) -> int | None:
        """See `Driver`."""
        address = super().malloc(nbytes)
        if address is not None:
            self._sizes[address] = nbytes
            self._note("segment_alloc", address, nbytes)
        return address

    def free(self, address: int) -> None:
        """See `Driver`."""
        super().free(address)
        self._note("segment_free", address, self._sizes.pop(address))


class History:
    """What `torch.cuda.memory._record_memory_history` switches on: a ring buffer of allocator events a device."""

    def __init__(self) -> None:
        self.enabled = False
        self.keeps_trace = False
        self.max_entries = 0
        self.frees_have_frames = False
        self._frames: dict[tuple[CodeType, int], dict[str, Any]] = {}
        self._stacks: dict[tuple[int, ...], list[dict[str, Any]]] = {}

    def stack(self) -> list[dict[str, Any]]:
        """Python frames of the caller, innermost first, without this package's own."""
        found: list[dict[str, Any]] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and len(found) < _MAX_FRAMES:
            code = frame.f_code
            if not code.co_filename.startswith(_OUR_FOLDER):
                key = (code, frame.f_lineno)
                known = self._frames.get(key)
                if known is None:
                    known = {"name": code.co_name, "filename": code.co_filename, "line": frame.f_lineno}
                    self._frames[key] = known
                found.append(known)
            frame = frame.f_back
        return self._stacks.setdefault(tuple(map(id, found)), found)


class SimulatedDevice:
    """One simulated GPU.

    Args:
        index: Its ordinal.
        gpu: What it is.
        settings: Of the allocator.
        history: Shared by all devices.
        observers: Told before an out-of-memory error is raised; shared by all devices.
    """

    def __init__(
        self,
        index: int,
        gpu: Gpu,
        settings: AllocatorSettings,
        history: History,
        observers: list[OomObserver],
    ) -> None:
        self.index = index
        self.gpu = gpu
        self.settings = settings
        self.memory_fraction = 1.0
        self._history = history
        self._observers = observers
        self.begin_anew()

    def begin_anew(self) -> None:
        """Begin with an empty device."""
        gpu, settings = self.gpu, self.settings
        self.trace: deque[dict[str, Any]] = deque()
        self._sizes: dict[int, tuple[int, int, Any]] = {}
        """Address -> bytes requested, stream, frames."""
        self._kept: dict[tuple[str, int], int] = {}
        self._base: dict[str, int] = {}
        self._highest = self._highest_possible = 0
        self.remarks: set[str] = set()
        """Sentences that a report must say."""
        driver = _NotingDriver(gpu.total_bytes, gpu.context_bytes, self._segment)
        self.allocator = CachingAllocator(settings=settings, driver=driver)
        if settings.per_process_memory_fraction is not None:
            self.memory_fraction = settings.per_process_memory_fraction

    # ---- memory ------------------------------------------------------------------------

    def allocate(self, nbytes: int, stream: int = 0) -> int:
        """Take a block.

        Args:
            nbytes: Size asked for; 0 takes none.
            stream: That will use it.

        Returns:
            Its address; 0 for 0 bytes.

        Raises:
            torch.OutOfMemoryError: The GPU would have no room for it.
        """
        if nbytes <= 0:
            return 0
        try:
            address = self.allocator.malloc(nbytes, stream)
        except SimulatedOutOfMemory as error:
            # Its traceback would hold this frame, which holds it: the callers' tensors would live until a collection.
            failed = error.with_traceback(None)
        else:
            frames = None
            if self._history.enabled:
                frames = self._history.stack()
                self._note("alloc", address, nbytes, stream, frames)
            self._sizes[address] = (nbytes, stream, frames)
            return address
        self._note("oom", None, nbytes, stream, self._history.stack(), device_free=failed.free_bytes)
        allowed = failed.total_bytes if failed.limit_bytes is None else failed.limit_bytes
        for observer in list(self._observers):
            observer(self.index, nbytes, min(failed.total_bytes, allowed), failed.free_bytes)
        raise torch.OutOfMemoryError(self._message(failed)) from None

    def free(self, address: int) -> None:
        """Give a block back."""
        found = self._sizes.pop(address, None)
        if found is None:
            return
        self.allocator.free(address)
        if self._history.enabled:
            nbytes, stream, _ = found
            frames = self._history.stack() if self._history.frees_have_frames else None
            self._note("free_requested", address, nbytes, stream, frames)
            self._note("free_completed", address, nbytes, stream, frames)

    def keep(self, name: str, nbytes: int, stream: int = 0) -> None:
        """Take a workspace that stays for the life of the process, once for each name and stream, as cuBLAS does."""
        if (name, stream) not in self._kept:
            self._kept[name, stream] = self.allocate(nbytes, stream)

    def release_kept(self, name: str) -> None:
        """Free the workspaces whose name begins so, as `torch._C._cuda_clearCublasWorkspaces` does."""
        for key in [key for key in self._kept if key[0].startswith(name)]:
            self.free(self._kept.pop(key))

    def record_stream(self, address: int, stream: int) -> None:
        """Note that another stream uses a block."""
        if address in self._sizes:
            self.allocator.record_stream(address, stream)

    def empty_cache(self) -> None:
        """What `torch.cuda.empty_cache` does."""
        self.allocator.empty_cache()

    def set_memory_fraction(self, fraction: float) -> None:
        """What `torch.cuda.set_per_process_memory_fraction` does."""
        self.memory_fraction = fraction
        self.allocator.set_memory_fraction(fraction)

    def configure(self, settings: AllocatorSettings) -> None:
        """Go on with other settings."""
        try:
            self.allocator.configure(settings)
        except UsageError as error:
            raise RuntimeError(str(error)) from error
        self.settings = settings

    def may_need(self, nbytes: int) -> None:
        """Note that a kernel took a workspace of unknown size, at most about so many bytes."""
        self._highest_possible = max(self._highest_possible, self.allocator.allocated_bytes + nbytes)

    # ---- figures -----------------------------------------------------------------------

    @property
    def free_bytes(self) -> int:
        """What `cudaMemGetInfo` calls free."""
        return self.allocator.driver.free_bytes

    @property
    def peak_allocated_bytes(self) -> int:
        """Highest of all, also of what was there before counters were reset."""
        return max(self._highest, self.allocator.memory_stats()["allocated_bytes.all.peak"])

    @property
    def possible_peak_allocated_bytes(self) -> int:
        """The same with workspaces of unknown size as large as they may be; an estimate."""
        return max(self.peak_allocated_bytes, self._highest_possible)

    @property
    def process_bytes(self) -> int:
        """Context and reserved memory."""
        return self.gpu.context_bytes + self.allocator.reserved_bytes

    def statistics(self) -> dict[str, Any]:
        """What `torch._C._cuda_memoryStats` gives: nested dictionaries."""
        nested: dict[str, Any] = {"num_oom_rejections": 0, "reserved_bytes_by_private_pools": {}}
        for key, value in self.allocator.memory_stats().items():
            *path, last = key.split(".")
            place = nested
            for part in path:
                place = place.setdefault(part, {})
            place[last] = value - self._base.get(key, 0)
        return nested

    def reset_peak(self) -> None:
        """What `torch.cuda.reset_peak_memory_stats` does."""
        self._highest = self.peak_allocated_bytes
        self.allocator.reset_peak()

    def reset_accumulated(self) -> None:
        """What `torch.cuda.reset_accumulated_memory_stats` does."""
        ends = (".allocated", ".freed")
        starts = ("num_alloc_retries", "num_ooms", "num_sync_all_streams", "num_device_alloc", "num_device_free")
        found = self.allocator.memory_stats()
        self._base = {key: value for key, value in found.items() if key.endswith(ends) or key in starts}

    def segments(self) -> list[dict[str, Any]]:
        """Segments as `torch.cuda.memory._snapshot` gives them."""
        found = []
        for segment in self.allocator.snapshot():
            blocks = []
            for block in segment.blocks:
                held = self._sizes.get(block.address)
                frames = (held[2] if held is not None else None) or []
                blocks.append(
                    {
                        "address": block.address,
                        "size": block.nbytes,
                        "requested_size": block.requested_bytes,
                        "state": _STATES[block.state],
                        "frames": frames if block.state is not BlockState.INACTIVE else [],
                    }
                )
            active = [block for block in segment.blocks if block.state is not BlockState.INACTIVE]
            allocated = [block for block in active if block.state is BlockState.ACTIVE_ALLOCATED]
            found.append(
                {
                    "device": self.index,
                    "address": segment.address,
                    "total_size": segment.nbytes,
                    "allocated_size": sum(block.nbytes for block in allocated),
                    "active_size": sum(block.nbytes for block in active),
                    "requested_size": sum(block.requested_bytes for block in active),
                    "stream": segment.stream,
                    "segment_type": "large" if segment.large else "small",
                    "segment_pool_id": segment.pool_id,
                    "is_expandable": segment.expandable,
                    "frames": [],
                    "blocks": blocks,
                }
            )
        return found

    def clear_trace(self, max_entries: int) -> None:
        """Begin with an empty ring buffer."""
        self.trace = deque(maxlen=max_entries)

    # ---- inside ------------------------------------------------------------------------

    def _segment(self, action: str, address: int, nbytes: int) -> None:
        if self._history.enabled:
            self._note(action, address, nbytes, 0, self._history.stack() if action == "segment_alloc" else None)

    def _note(
        self,
        action: str,
        address: int | None,
        nbytes: int,
        stream: int,
        frames: list[dict[str, Any]] | None,
        device_free: int | None = None,
    ) -> None:
        if not self._history.keeps_trace:
            return
        entry: dict[str, Any] = {"action": action}
        if address is not None:
            entry["addr"] = address
        if device_free is not None:
            entry["device_free"] = device_free
        entry.update(
            size=nbytes,
            stream=stream,
            time_us=time.time_ns() // 1000,
            compile_context="N/A",
            user_metadata="",
            pool_id=(0, 0),
        )
        if frames is not None:
            entry["frames"] = frames
        self.trace.append(entry)

    def _message(self, failed: SimulatedOutOfMemory) -> str:
        allowed = "" if failed.limit_bytes is None else f"{_size(failed.limit_bytes)} allowed; "
        idle = failed.reserved_bytes - failed.allocated_bytes
        return (
            f"CUDA out of memory. Tried to allocate {_size(failed.requested_bytes)}. GPU {self.index} has a total "
            f"capacity of {_size(failed.total_bytes)} of which {_size(failed.free_bytes)} is free. Including "
            f"non-PyTorch memory, this process has {_size(self.process_bytes)} memory in use. {allowed}Of the "
            f"allocated memory {_size(failed.allocated_bytes)} is allocated by PyTorch, and {_size(idle)} is "
            "reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
            "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for "
            f"Memory Management  ({_DOCUMENTATION}) (GPU simulated by memprof)"
        )


def _size(nbytes: int) -> str:
    """`format_size` of c10/cuda/CUDACachingAllocator.cpp."""
    if nbytes <= 1024:
        return f"{nbytes} bytes"
    if nbytes <= 1 << 20:
        return f"{nbytes / 1024:.2f} KiB"
    if nbytes <= 1 << 30:
        return f"{nbytes / (1 << 20):.2f} MiB"
    return f"{nbytes / (1 << 30):.2f} GiB"

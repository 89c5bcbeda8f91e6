"""Level `blocks`: the CUDA caching allocator's own history, drained at every tick.

torch keeps the history in a ring buffer in C++; a drain copies it out through a snapshot and clears it.
Nothing is allocated on the device and no tensor is touched.
"""

from __future__ import annotations

import inspect
import time
from array import array
from collections.abc import Callable
from typing import Any

import torch

from memprof.capture.frames import UserCode
from memprof.record.blocks import BlockAction, BlockState
from memprof.record.events import Location
from memprof.record.schema import NONE
from memprof.record.writer import RecordingWriter

MAX_ENTRIES = 400_000
"""Events a device's ring buffer holds between two drains."""

_ACTIONS = {action.name.lower(): int(action) for action in BlockAction}
_STATES = {
    "inactive": int(BlockState.INACTIVE),
    "active_allocated": int(BlockState.ACTIVE_ALLOCATED),
    "active_awaiting_free": int(BlockState.ACTIVE_AWAITING_FREE),
    "active_pending_free": int(BlockState.ACTIVE_AWAITING_FREE),
}
_COUNTED = (_ACTIONS["alloc"], _ACTIONS["free_requested"])


class AllocatorWatch:
    """Records what the caching allocator of every CUDA device does.

    It gives way to the user: where the script records history by itself, before or meanwhile, the watch
    leaves the history alone and says so.

    Args:
        writer: Takes stacks and segments.
        code: Tells the user's lines from libraries.
        note: Takes a sentence about what could not be recorded.
        max_entries: Size of the ring buffer.
    """

    def __init__(
        self,
        writer: RecordingWriter,
        code: UserCode,
        note: Callable[[str], None],
        *,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._writer = writer
        self._code = code
        self._note = note
        self._max_entries = max_entries
        self.active = False
        """Every event since the last drain is in the history."""
        self.settings: dict[str, Any] = {}
        """`allocator_settings` when recording began."""
        self.backward_line: Location | None = None
        """The user's line that called backward last: where allocations without frames come from, for the
        threads of the autograd engine have none."""
        self._original: Any = None
        self._wrapper: Any = None
        self._operations: dict[int, int] = {}
        self._frames: dict[tuple[str, int, str], tuple[int, bool]] = {}

    def begin(self, tick: int) -> None:
        """Start recording history, if nobody else does.

        Args:
            tick: The tick that is running.
        """
        enabled = getattr(torch._C, "_cuda_isHistoryEnabled", None)
        if enabled is not None and enabled():
            self._note("the script records CUDA memory history itself, so memprof leaves it alone: no allocator events")
            return
        self._intercept()
        self._enable()
        self.active = True
        snapshot = torch.cuda.memory._snapshot()
        self.settings = snapshot.get("allocator_settings", {})
        self._start_over(snapshot, tick)
        self._enable()

    def drain(self, tick: int) -> array[int] | None:
        """Take the events since the last drain.

        Args:
            tick: The tick that ends.

        Returns:
            Packed rows of `schema.BLOCK_COLUMNS`, or None where events were lost: then what the allocators
            hold is written down again as the start of the next tick.
        """
        if not self.active:
            return None
        snapshot = torch.cuda.memory._snapshot()
        offset_ns = time.perf_counter_ns() - time.time_ns()
        self._enable()
        rows = array("q")
        complete = True
        for index, trace in enumerate(snapshot["device_traces"]):
            counted = self._pack(rows, index, trace, offset_ns)
            before, now = self._operations.get(index, 0), _operations(index)
            self._operations[index] = now
            if counted != now - before:
                complete = False
                if len(trace) >= self._max_entries:
                    self._note(
                        f"more than {self._max_entries:,} allocator events in one tick overflowed the history "
                        f"(first in tick {tick}); call prof.step() more often"
                    )
        if complete:
            return rows
        self._note("some allocator events were lost; figures of those iterations come from the counters alone")
        self._start_over(snapshot, tick + 1)
        return None

    def end(self) -> None:
        """Switch the history off, unless the user took it over."""
        if self.active:
            self.active = False
            self._record(enabled=None)
        self._release()

    # ---- the switch --------------------------------------------------------------------

    def _enable(self) -> None:
        """Record from now on, with an empty buffer."""
        self._record(enabled="all", context="alloc", stacks="python", max_entries=self._max_entries, clear_history=True)

    def _record(self, **arguments: Any) -> None:
        switch = torch.cuda.memory._record_memory_history
        known = inspect.signature(switch).parameters
        enabled = arguments.pop("enabled")
        wrapped, torch._C._cuda_record_memory_history = torch._C._cuda_record_memory_history, self._original
        try:
            switch(enabled, **{key: value for key, value in arguments.items() if key in known})
        finally:
            torch._C._cuda_record_memory_history = wrapped

    def _intercept(self) -> None:
        """Notice when the user's code switches the history on or off, and leave it to the user then."""
        original = self._original = torch._C._cuda_record_memory_history

        def switched(*args: Any, **kwargs: Any) -> Any:
            if self.active:
                self.active = False
                self._note("the script took over the CUDA memory history: no allocator events from there on")
                self._enable()  # empties the buffer, so that the user finds none of our events in it
            return original(*args, **kwargs)

        self._wrapper = torch._C._cuda_record_memory_history = switched

    def _release(self) -> None:
        if self._wrapper is not None and torch._C._cuda_record_memory_history is self._wrapper:
            torch._C._cuda_record_memory_history = self._original
        self._wrapper = None

    # ---- packing -----------------------------------------------------------------------

    def _pack(self, rows: array[int], index: int, trace: list[dict[str, Any]], offset_ns: int) -> int:
        """Append the events of one device; returns how many the allocator counts as operations."""
        device = self._writer.name_id(f"cuda:{index}")
        counted = 0
        stacks: dict[int, int] = {}
        lines: dict[int, tuple[int, bool]] = {}
        other = int(BlockAction.OTHER)
        without = NONE
        if self.backward_line is not None:
            line = self._writer.location_id(self.backward_line)
            without = self._writer.stack_id((line,), line)
        for entry in trace:
            action = _ACTIONS.get(entry["action"], other)
            if action in _COUNTED:
                counted += 1
            frames = entry.get("frames")
            stack = without if frames is not None else NONE  # None: a free, or an event of torch's own
            if frames:
                found = stacks.get(id(frames))
                if found is None:
                    found = stacks[id(frames)] = self._stack(frames, lines)
                stack = found
            rows.extend(
                (
                    device,
                    action,
                    entry.get("time_us", 0) * 1000 + offset_ns,
                    entry.get("addr", NONE),
                    entry["size"],
                    entry["stream"],
                    stack,
                )
            )
        return counted

    def _stack(self, frames: list[dict[str, Any]], lines: dict[int, tuple[int, bool]]) -> int:
        """Id of a stack; `lines` remembers frame objects, which the stacks of one snapshot share."""
        ids = []
        user = NONE
        for frame in frames:
            line = lines.get(id(frame))
            if line is None:
                line = lines[id(frame)] = self._line(frame)
            ids.append(line[0])
            if user == NONE and line[1]:
                user = line[0]
        return self._writer.stack_id(tuple(ids), user)

    def _line(self, frame: dict[str, Any]) -> tuple[int, bool]:
        key = (frame["filename"], frame["line"], frame["name"])
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = (self._writer.location_id(Location(*key)), self._code.owns_file(key[0]))
        return found

    def _start_over(self, snapshot: dict[str, Any], tick: int) -> None:
        """Write down what every device holds, as the state when a tick began."""
        rows = array("q")
        for index in range(len(snapshot["device_traces"])):
            self._operations[index] = _operations(index)
        lines: dict[int, tuple[int, bool]] = {}
        for segment in snapshot["segments"]:
            device = self._writer.name_id(f"cuda:{segment['device']}")
            pool = segment.get("segment_pool_id", (0, 0))
            address = segment["address"]
            for block in segment["blocks"]:
                frames = block.get("frames")
                rows.extend(
                    (
                        device,
                        segment["address"],
                        segment["total_size"],
                        segment["stream"],
                        segment["segment_type"] == "large",
                        pool[0],
                        pool[1],
                        bool(segment.get("is_expandable", False)),
                        block.get("address", address),
                        block["size"],
                        block.get("requested_size", block["size"]),
                        _STATES.get(block["state"], int(BlockState.INACTIVE)),
                        self._stack(frames, lines) if frames else NONE,
                    )
                )
                address += block["size"]
        self._writer.write_segments(tick, rows)


def _operations(index: int) -> int:
    stats = torch.cuda.memory_stats(index)
    return int(stats.get("allocation.all.allocated", 0) + stats.get("allocation.all.freed", 0))

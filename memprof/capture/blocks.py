"""Level `blocks`: the CUDA caching allocator's own history, written down tick by tick.

torch keeps the history in a ring buffer in C++; a drain copies it out through a snapshot and clears it. A snapshot
costs a good deal however little it holds, so drains are rare, and the events of each are dealt out to their ticks
by counting. Nothing is allocated on the device and no tensor is touched.
"""

from __future__ import annotations

import inspect
import time
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memprof._collection import collection_paused
from memprof.capture.block_places import BlockPlaces
from memprof.capture.block_trace import COLUMN, TickEnd, TracePacker, counted, kinds, places_in_ticks
from memprof.capture.compilation import between
from memprof.capture.counters import AllocatorStats
from memprof.capture.frames import UserCode
from memprof.capture.module_regions import ModuleRegions
from memprof.record.blocks import BlockState, IntArray
from memprof.record.events import Location
from memprof.record.schema import NONE
from memprof.record.writer import RecordingWriter

MAX_ENTRIES = 400_000
"""Events a device's ring buffer holds between two drains."""

DRAIN_OPERATIONS = 5_000
"""Blocks allocated and freed since the last drain that make the next one due. What torch makes of so many fits into
the processor's caches; twice as many cost more for each, and half as many pay more often for the segments, of which
every snapshot has all."""

DRAIN_NS = 1_000_000_000
"""Time since the last drain that makes the next one due: what a killed process loses of its history."""

_STATES = {
    "inactive": int(BlockState.INACTIVE),
    "active_allocated": int(BlockState.ACTIVE_ALLOCATED),
    "active_awaiting_free": int(BlockState.ACTIVE_AWAITING_FREE),
    "active_pending_free": int(BlockState.ACTIVE_AWAITING_FREE),
}


class AllocatorWatch:
    """Records what the caching allocator of every CUDA device does.

    It gives way to the user: where the script records history by itself, before or meanwhile, the watch
    leaves the history alone and says so.

    Args:
        writer: Takes events, stacks and segments.
        code: Tells the user's lines from libraries.
        note: Takes a sentence about what could not be recorded.
    """

    def __init__(
        self,
        writer: RecordingWriter,
        code: UserCode,
        note: Callable[[str], None],
    ) -> None:
        self._writer = writer
        self._packer = TracePacker(writer, code)
        self._places = BlockPlaces(self._packer)
        self.regions = ModuleRegions(note)
        """Where modules run; kept by those who call them."""
        self._note = note
        self.active = False
        """Every event since the last drain is in the history."""
        self.settings: dict[str, Any] = {}
        """`allocator_settings` when recording began."""
        self._known_arguments: frozenset[str] = frozenset()
        self._original: Any = None
        self._wrapper: Any = None
        self._ends: list[TickEnd] = []
        """Ticks that ended since the last drain."""
        self._operations: dict[int, int] = {}
        """CUDA ordinal -> operations at the last drain."""
        self._drained_ns = time.perf_counter_ns()
        self._overflowed = False
        self._rest: dict[int, IntArray] = {}
        """CUDA ordinal -> events of a tick that was running when the history was drained."""
        self._backwards: list[tuple[int, int]] = [(0, NONE)]
        """From when on which line of the user ran a backward, as the stack of that line alone: the threads of the
        autograd engine have no frames of the user."""

    def begin(self, tick: int) -> None:
        """Start recording history, if nobody else does.

        Args:
            tick: The tick that is running.
        """
        enabled = getattr(torch._C, "_cuda_isHistoryEnabled", None)
        if enabled is not None and enabled():
            self._note("the script records CUDA memory history itself, so memprof leaves it alone: no allocator events")
            return
        self._known_arguments = frozenset(inspect.signature(torch.cuda.memory._record_memory_history).parameters)
        self._intercept()
        self._enable()
        self.active = True
        snapshot = torch.cuda.memory._snapshot()
        self.settings = snapshot.get("allocator_settings", {})
        self._start_over(snapshot, tick)
        self._enable()

    def backward(self, line: Location | None) -> None:
        """A backward begins, called by a line of the user; None where one ends."""
        self._backwards.append((time.perf_counter_ns(), self._packer.stack_of_line(line)))

    def tick_ended(self, tick: int, time_ns: int, devices: Iterable[AllocatorStats]) -> None:
        """Remember where a tick ended.

        Args:
            tick: The tick.
            time_ns: When it ended.
            devices: Counters as they were then.
        """
        if self.active:
            operations = {}
            for device in devices:
                blocks = device.latest["allocation"]["all"]
                operations[device.index] = blocks["allocated"] + blocks["freed"]
            self._ends.append(TickEnd(tick, time_ns, operations))

    @property
    def due(self) -> bool:
        """Whether to drain the history now."""
        if not self._ends:
            return False
        end = self._ends[-1]
        if end.time_ns - self._drained_ns >= DRAIN_NS:
            return True
        return sum(end.operations.values()) - sum(self._operations.values()) >= DRAIN_OPERATIONS

    def drain(self) -> None:
        """Write down the events of the ticks that ended; these must be written.

        Where events were lost, what the allocators hold is written down again, as the start of the next tick.
        """
        if not self.active:
            return
        with collection_paused():  # the dictionaries of a snapshot would set it off again and again
            self._drain()

    def _drain(self) -> None:
        snapshot = torch.cuda.memory._snapshot()
        now_ns = time.perf_counter_ns()
        offset_ns = now_ns - time.time_ns()
        self._enable()
        self._packer.begin_snapshot()
        ends, self._ends = self._ends, []
        self._drained_ns = now_ns
        packed = [self._packer.pack(index, trace, offset_ns) for index, trace in enumerate(snapshot["device_traces"])]
        parts = [(index, rows, self._find_backward_lines(rows)) for index, rows in enumerate(packed)]
        del self._backwards[:-1]
        self._places.refine(parts, self.regions.take())
        self.regions.marking = not self._places.all_known
        placed: list[tuple[IntArray, IntArray]] = []
        complete = True
        for index, rows in enumerate(packed):
            before, now = self._operations.get(index, 0), _operations(index)
            self._operations[index] = now
            if np.count_nonzero(counted(rows)) != now - before:
                complete = False
                if len(rows) >= MAX_ENTRIES and not self._overflowed:
                    self._overflowed = True
                    self._note(
                        f"more than {MAX_ENTRIES:,} allocator events in one tick overflowed the history "
                        f"(first in tick {ends[-1].tick if ends else 0}); call prof.step() more often"
                    )
            rest = self._rest.pop(index, None)
            if rest is not None:
                before -= int(np.count_nonzero(counted(rest)))
                rows = np.concatenate((rest, rows))
            if len(rows):
                place = places_in_ticks(rows, index, before, ends)
                self._rest[index] = rows[int(np.searchsorted(place, len(ends))) :]
                placed.append((rows, place))
        if complete:
            self._writer.write_blocks((end.tick, _rows_of(placed, place)) for place, end in enumerate(ends))
            return
        self._note("some allocator events were lost; figures of those iterations come from the counters alone")
        self._rest.clear()
        self._start_over(snapshot, ends[-1].tick + 1 if ends else 0)

    def _find_backward_lines(self, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Give allocations of the autograd engine the line that called backward, in place; returns which they are."""
        chosen = np.flatnonzero(rows[:, COLUMN["stack"]] != NONE)
        begins, stacks = np.array(self._backwards, np.int64).T
        backward = stacks[np.searchsorted(begins, rows[chosen, COLUMN["time_ns"]], side="right") - 1]
        pairs, kind = kinds(rows[chosen, COLUMN["stack"]], backward)
        found = np.array([self._packer.called_by(*pair) for pair in pairs.tolist()], np.int64).reshape(-1, 2)
        rows[chosen, COLUMN["stack"]] = found[kind, 0]
        by_engine = np.zeros(len(rows), np.bool_)
        by_engine[chosen] = found[kind, 1] != 0
        return by_engine

    def end(self) -> None:
        """Switch the history off, unless the user took it over."""
        if self.active:
            self.active = False
            self._record(enabled=None)
        self.regions.close()
        self._release()

    def abandon(self) -> None:
        """In a forked child: record nothing, and touch nothing of the parent's."""
        self.active = False
        self.regions.close()
        self._release()

    # ---- the switch --------------------------------------------------------------------

    def _enable(self) -> None:
        """Record from now on, with an empty buffer."""
        self._record(
            enabled="all",
            context="alloc",
            stacks="python",
            max_entries=MAX_ENTRIES,
            clear_history=True,
            skip_actions=["snapshot"],
        )

    def _record(self, **arguments: Any) -> None:
        switch = torch.cuda.memory._record_memory_history
        enabled = arguments.pop("enabled")
        wrapped, torch._C._cuda_record_memory_history = torch._C._cuda_record_memory_history, self._original
        try:
            switch(enabled, **{key: value for key, value in arguments.items() if key in self._known_arguments})
        finally:
            torch._C._cuda_record_memory_history = wrapped

    def _intercept(self) -> None:
        """Notice when the user's code switches the history on or off, and leave it to the user then."""
        original = self._original = torch._C._cuda_record_memory_history

        @between
        def switched(*args: Any, **kwargs: Any) -> Any:
            if self.active:
                self._give_way()
            return original(*args, **kwargs)

        self._wrapper = torch._C._cuda_record_memory_history = switched

    def _give_way(self) -> None:
        """Keep what is known of the ticks that ended, and leave the history to the user."""
        try:
            self.drain()  # empties the buffer, so that the user finds none of our events in it
        except Exception as error:  # the user's call goes on
            self._note(f"the last allocator events could not be read ({type(error).__name__}: {error})")
        self.active = False
        self.regions.close()
        self._note("the script took over the CUDA memory history: no allocator events from there on")

    def _release(self) -> None:
        if self._wrapper is not None and torch._C._cuda_record_memory_history is self._wrapper:
            torch._C._cuda_record_memory_history = self._original
        self._wrapper = None

    # ---- segments ----------------------------------------------------------------------

    def _start_over(self, snapshot: dict[str, Any], tick: int) -> None:
        """Write down what every device holds, as the state when a tick began."""
        rows = array("q")
        for index in range(len(snapshot["device_traces"])):
            self._operations[index] = _operations(index)
        self._packer.begin_snapshot()
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
                        self._packer.stack(frames) if frames else NONE,
                    )
                )
                address += block["size"]
        self._writer.write_segments(tick, rows)


def _rows_of(placed: list[tuple[IntArray, IntArray]], place: int) -> bytes:
    """Packed rows of one tick, device after device."""
    found = []
    for rows, places in placed:
        first, last = np.searchsorted(places, (place, place + 1))
        found.append(rows[first:last].astype("<i8", copy=False).tobytes())
    return b"".join(found)


def _operations(index: int) -> int:
    blocks = torch._C._cuda_memoryStats(index)["allocation"]["all"]
    return int(blocks["allocated"] + blocks["freed"])

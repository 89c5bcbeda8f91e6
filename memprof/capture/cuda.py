"""Everything a session does only where CUDA is used: counters, allocator history, device state, errors."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from memprof.capture import oom
from memprof.capture.blocks import AllocatorWatch
from memprof.capture.compilation import uncompiled
from memprof.capture.counters import Counter, cuda_counters
from memprof.capture.device_state import DeviceStates
from memprof.capture.frames import UserCode
from memprof.capture.module_regions import ModuleRegions
from memprof.record.events import DeviceState, Location, Phase, Tick, TickFlag
from memprof.record.run_info import RunInfo
from memprof.record.writer import RecordingWriter

if TYPE_CHECKING:
    from memprof.capture.ticks import TickClock


class CudaWatch:
    """The CUDA part of one session; asleep until the script initialises CUDA, which it never does itself.

    Args:
        run: Takes the allocator's settings.
        writer: The recording.
        code: Finds the user's line.
        note: Takes a sentence about what could not be recorded.
        clock: Knows tick and phase.
        history: Record the allocator's history too.
        guard: Runs an action so that its failure never reaches the user's code.
        found: Called when the devices in use have changed.
        process_bytes: What this process takes of a device, where NVML is not to be asked (a simulated GPU).
    """

    def __init__(
        self,
        run: RunInfo,
        writer: RecordingWriter,
        code: UserCode,
        note: Callable[[str], None],
        clock: TickClock,
        *,
        history: bool,
        guard: Callable[[Callable[[], None]], None],
        found: Callable[[], None],
        process_bytes: Callable[[int], int] | None = None,
    ) -> None:
        self._run = run
        self._writer = writer
        self._code = code
        self._note = note
        self._clock = clock
        self._guard = guard
        self._found = found
        self._states = DeviceStates(every_tick=history, process_bytes=process_bytes)
        self._history = AllocatorWatch(writer, code, note) if history else None
        self._running = False
        self.awake = False
        """CUDA is initialised."""
        self.counters: list[Counter] = []
        self.out_of_memory: Callable[[], None] | None = None
        """Called when an allocator is about to raise."""

    def begin(self) -> None:
        """Wake up as soon as CUDA is initialised: now, or when the script does it."""
        self._running = True
        if not torch.backends.cuda.is_built():  # to ask for devices would keep forked children from using them
            return
        if torch.cuda.is_initialized():
            self._wake()
            return
        later: Any = getattr(torch.cuda, "_lazy_call", None)
        if later is not None:
            reference = weakref.ref(self)

            @uncompiled
            def initialised() -> None:
                watch = reference()
                if watch is not None and watch._running and not watch.awake:
                    watch._guard(watch._wake)

            later(initialised)

    def _wake(self) -> None:
        self.awake = True
        oom.listen(self._out_of_memory)
        if self._history is not None:
            self._history.begin(self._clock.index)
            self._run.allocator_settings = self._history.settings
        self._run.extra.update(_place_in_job())
        self._look()

    def _look(self) -> None:
        """Find the devices in use."""
        fresh = cuda_counters(torch, [counter.device for counter in self.counters])
        if fresh:
            self.counters.extend(fresh)
            self._found()

    @property
    def records_blocks(self) -> bool:
        """Every allocator event of the running tick is being recorded."""
        return self._history is not None and self._history.active

    @property
    def regions(self) -> ModuleRegions | None:
        """Takes where modules run, as long as somebody can make use of it."""
        history = self._history
        return history.regions if history is not None and history.active and history.regions.on else None

    def backward(self, line: Location | None) -> None:
        """A backward begins, called by a line of the user; None where one ends."""
        if self.records_blocks:
            assert self._history is not None
            self._history.backward(line)

    def tick_ended(self, tick: Tick) -> list[DeviceState]:
        """The state of devices at the end of a tick."""
        if not self.awake:
            if not (torch.cuda.is_initialized() and torch.cuda.is_available()):
                return []
            self._wake()
        known = len(self.counters)
        if known < torch.cuda.device_count():
            self._look()
        if len(self.counters) > known:
            self._clock.sample(ends=True)  # so that the tick in which a device came into use knows of it
        devices = [counter.stats for counter in self.counters if counter.stats is not None]
        if self._history is not None:
            self._history.tick_ended(tick.index, tick.end_ns, devices)
        return self._states.read(devices, tick.index, ask_driver=bool(tick.flags & TickFlag.FINAL))

    def write_blocks(self, *, due: bool = False) -> None:
        """Write down what the allocators did in the ticks written since the last time.

        Args:
            due: Only where it is time to.
        """
        if self._history is not None and (not due or self._history.due):
            self._history.drain()

    def end(self) -> None:
        """Leave CUDA as it was."""
        self._running = False
        oom.stop_listening(self._out_of_memory)
        if self._history is not None:
            self._history.end()
        self._states.close()

    def abandon(self) -> None:
        """In a forked child: what it does with CUDA is its own."""
        self._running = False
        oom.stop_listening(self._out_of_memory)
        if self._history is not None:
            self._history.abandon()

    def _out_of_memory(self, device: int, segment_bytes: int, total_bytes: int, free_bytes: int) -> None:
        found = oom.describe(
            device,
            segment_bytes,
            total_bytes,
            free_bytes,
            tick=self._clock.index,
            phase=Phase(self._clock.phase),
            code=self._code,
        )
        self._writer.write_oom(found)
        if self.out_of_memory is not None:
            self._guard(self.out_of_memory)


def _place_in_job() -> dict[str, int]:
    """Which process of the job on this machine this is, as torchrun says, and how many GPUs they share."""
    try:
        place = {name: int(os.environ[name.upper()]) for name in ("local_rank", "local_world_size")}
    except (KeyError, ValueError):  # not started by torchrun or the like
        return {}
    return {**place, "cuda_devices": torch.cuda.device_count()}

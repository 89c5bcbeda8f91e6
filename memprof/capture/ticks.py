"""Where the user's loop turns: phases, and the places where an iteration can end.

A tick ends
* where the user says so (`prof.step()`, `memprof.iterations(...)`), and then nowhere else, but for one that has become
  very long: the reader joins its ticks again;
* when a `DataLoader` is asked for a batch, if anything was computed since the last one;
* where no root module is called, when backward runs from a position that already ran one in this tick;
* when a root module is called from a position in the code that already called one in this tick, or
  after every optimizer has stepped in it, if no `DataLoader` drives the loop. One that has not been
  asked for dozens of steps does not: somebody keeps its iterator and the first batches of it.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from memprof.capture.compilation import uncompiled
from memprof.capture.counters import Counter, Reading
from memprof.record.events import Location, Phase, Tick, TickFlag
from memprof.record.schema import NONE

FORWARD = int(TickFlag.FORWARD)
BACKWARD = int(TickFlag.BACKWARD)
OPTIMIZER_STEP = int(TickFlag.OPTIMIZER_STEP)
BATCH = int(TickFlag.BATCH)
EXPLICIT = int(TickFlag.EXPLICIT)
TRACKED = int(TickFlag.TRACKED)
GRAPH = int(TickFlag.GRAPH)
EVAL_MODE = int(TickFlag.EVAL_MODE)
FINAL = int(TickFlag.FINAL)
INTERRUPTED = int(TickFlag.INTERRUPTED)
"""The flags as plain integers: between two ticks they are set and tested all the time."""

_Reader = tuple[int, Callable[[], Reading]]
"""Id of a device, and how its counter is read."""

_COMPUTED = FORWARD | BACKWARD | OPTIMIZER_STEP
_MOST_STEPS_A_BATCH = 64
"""An optimizer steps so often with one batch of a loader that drives the loop."""
_MOST_NUMBERS = 16_384
"""Numbers of samples from which on a tick is very long: an epoch that is marked as one iteration has many steps."""


class TickClock:
    """Turns hook events into ticks.

    Args:
        close: Called with each finished tick.
        phase_changed: Called with the phase that begins.
    """

    def __init__(self, close: Callable[[Tick], None], phase_changed: Callable[[Phase], None]) -> None:
        self._close = close
        self._phase_changed = phase_changed
        self.counters: tuple[Counter, ...] = ()
        self.watched = False
        """Every storage has been watched since the tick began."""
        self.allocated_bytes: int | None = None
        """What the first counter said when it was last read."""
        self.highest_bytes: int | None = None
        """The most it said since the tick began."""
        self._samples: list[int] = []
        """Rows of `schema.SAMPLE_COLUMNS` since the tick began, packed once at its end, which is quicker."""
        self._readers: tuple[_Reader, ...] = ()
        self._device_readers: tuple[_Reader, ...] = ()
        self._inner_readers: tuple[_Reader, ...] = ()
        """Those that are read between the boundaries of ticks."""
        self._one_device = False
        self._last: dict[int, Reading] = {}
        """Device -> what its counter said when it was last read at an end of a tick or of a forward."""
        self.index = 0
        self.phase = Phase.OTHER
        self.flags = 0
        self.explicit = False
        self.in_optimizer = False
        """An optimizer's step is running, perhaps with a closure that calls the model."""
        self.call: Location | None = None
        """The user's line that made the tick's first root-module call."""
        self.epoch = 0
        self._start_ns = perf_counter_ns()
        self._consumed: set[int] = set()
        self._sites: set[int] = set()
        self._forward_bytes: int | None = None
        self._loaders: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._steps_again = 0
        """Steps of optimizers that had stepped in the same tick before, since a loader was asked."""
        self._loop_began = False

    # ---- boundaries --------------------------------------------------------------------

    def at_call(self, site: int, *, all_stepped: bool = False) -> bool:
        """A root module is about to be called from a position in the code, or backward to be run without any.

        Args:
            site: The position.
            all_stepped: Every optimizer there is has stepped in this tick.

        Returns:
            Whether a tick began, whose counters have just been read.
        """
        began = self.index
        if self.explicit:
            if len(self._samples) >= _MOST_NUMBERS and self._phase_allows_boundary():
                self.turn()
        elif self._phase_allows_boundary():
            again = site in self._sites or all_stepped
            if not self._loop_began or (again and not self._loader_drives()):
                self.turn()
        self._loop_began = True
        self._sites.add(site)
        return self.index > began

    def at_optimizer(self) -> None:
        """An optimizer that has stepped in this tick is about to step again (with a closure that calls the model)."""
        if not self.explicit and self._phase_allows_boundary() and not self._loader_drives():
            self.turn()
        self._steps_again += 1

    def at_batch_wanted(self, loader: Any) -> None:
        """A loader is about to be asked for a batch."""
        if not self.explicit and self._phase_allows_boundary() and (self.flags & _COMPUTED or not self._loop_began):
            self.turn()
        self._loop_began = True
        self._steps_again = 0
        if id(loader) not in self._loaders:
            self.epoch += 1
            self._loaders = {key: item for key, item in self._loaders.items() if item[0]() is not None}
            self._loaders[id(loader)] = (weakref.ref(loader), 0)

    def at_batch(self, loader: Any, *, exhausted: bool) -> None:
        """The loader answered."""
        if exhausted:
            self._loaders.pop(id(loader), None)
            return
        self.flags |= BATCH
        reference, batches = self._loaders.get(id(loader), (weakref.ref(loader), 0))
        self._loaders[id(loader)] = (reference, batches + 1)

    def at_step(self) -> None:
        """The user says that the iteration ends here."""
        self.explicit = True
        self.flags |= EXPLICIT
        self.turn()

    def _phase_allows_boundary(self) -> bool:
        return not self.in_optimizer and self.phase in (Phase.OTHER, Phase.FORWARD)

    def _loader_drives(self) -> bool:
        """Whether a loader that gave more than one batch is still being read."""
        if self._steps_again >= _MOST_STEPS_A_BATCH:
            return False
        return any(reference() is not None and batches > 1 for reference, batches in self._loaders.values())

    def turn(self, *, final: bool = False) -> None:
        """End the tick and begin the next; `final` says that the run ended inside it."""
        self.enter(Phase.OTHER)
        now = self.sample(ends=True)
        tick = Tick(
            index=self.index,
            start_ns=self._start_ns,
            end_ns=now,
            flags=TickFlag(self.flags | (FINAL if final else 0) | (TRACKED if self.watched else 0)),
            consumed=tuple(sorted(self._consumed)),
            forward_bytes=self._forward_bytes,
            epoch=self.epoch,
            call=self.call,
        )
        self.index += 1
        self.flags = 0
        self.call = None
        self._consumed.clear()
        self._sites.clear()
        self._forward_bytes = None
        self._close(tick)
        self._samples = []
        self.highest_bytes = None
        self._start_ns = self._sample_start()

    # ---- phases ------------------------------------------------------------------------

    def enter(self, phase: Phase, *, just_read: bool = False) -> None:
        """Change the phase, with what the counters say on both sides of the change.

        Args:
            phase: The phase that begins.
            just_read: A tick has just begun: nothing but memprof ran since the counters were read for it.
        """
        if phase == self.phase:
            return
        now = perf_counter_ns()
        before, self.phase = self.phase, phase
        self._phase_changed(phase)
        last = self._last
        for device, read in self._inner_readers:
            values = last[device] if just_read and device in last else self._noted(read())
            self._samples.extend((now, before, 1, device, *values, now, phase, 0, device, *values))

    def forward_ended(self, *, on_device: bool) -> None:
        """A root module returned; `on_device` says that what it returned lies on a device with a counter of its own.

        The host's memory is then read at the boundaries of ticks only: glibc walks all that is free in its heap,
        which takes long where a process is large.
        """
        self._inner_readers = self._device_readers if on_device else self._readers
        self._sample(self._inner_readers, ends=True)

    def sample(self, *, ends: bool) -> int:
        """Read every counter; returns the time."""
        return self._sample(self._readers, ends=ends)

    def _sample(self, readers: tuple[_Reader, ...], *, ends: bool) -> int:
        now = perf_counter_ns()
        for device, read in readers:
            values = self._last[device] = self._noted(read())
            self._samples.extend((now, self.phase, ends, device, *values))
        return now

    def _sample_start(self) -> int:
        """The sample that begins a tick. Closing the last one took host memory only: allocators are not asked again."""
        now = perf_counter_ns()
        for device, read in self._readers:
            values = self._last.get(device)
            if values is None or (values[1] == NONE and self._inner_readers is self._readers):
                values = self._last[device] = read()
            self._noted(values)
            self._samples.extend((now, self.phase, 0, device, *values))
        return now

    def packed_samples(self) -> array[int]:
        """Packed rows of `schema.SAMPLE_COLUMNS` since the tick began."""
        return array("q", self._samples)

    def read_from(self, counters: tuple[Counter, ...], device_id: Callable[[str], int]) -> None:
        """Set the counters; the first is the one that `allocated_bytes` follows."""
        self.counters = counters
        self._readers = tuple((device_id(counter.device), counter.read) for counter in counters)
        devices = {device_id(counter.device) for counter in counters if counter.stats is not None}
        self._device_readers = tuple(reader for reader in self._readers if reader[0] in devices)
        self._inner_readers = self._readers
        self._one_device = len(counters) == 1

    def _noted(self, values: Reading) -> Reading:
        """A reading, remembered where it is the first counter's."""
        if self._one_device or values[1] != NONE:
            allocated = self.allocated_bytes = values[0]
            highest = self.highest_bytes
            if highest is None or allocated > highest:
                self.highest_bytes = allocated
        return values

    def consumer(self, also: Callable[[], None]) -> Callable[[Any], None]:
        """A hook for a node of this tick's graph that reports its use to whichever tick is then running.

        Args:
            also: Called at each use.
        """
        consumed, made_in = self._consumed, self.index

        @uncompiled
        def used(_: Any) -> None:
            consumed.add(made_in)
            also()

        return used

    def add_forward_bytes(self, nbytes: int) -> None:
        """Count what a root forward left allocated apart from its output."""
        self._forward_bytes = (self._forward_bytes or 0) + max(nbytes, 0)

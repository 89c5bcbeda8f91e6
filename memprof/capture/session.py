"""One profiled stretch of a live process: hooks in, ticks out, everything restored at the end."""

from __future__ import annotations

import gc
import os
import platform
import time
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from memprof._errors import UsageError
from memprof.capture import ticks
from memprof.capture.census import CensusTaker
from memprof.capture.compilation import uncompiled
from memprof.capture.contents import ContentBooks
from memprof.capture.counters import Counter, cpu_counter
from memprof.capture.cuda import CudaWatch
from memprof.capture.failures import describe
from memprof.capture.frames import UserCode, tracked_objects
from memprof.capture.guard import Guard
from memprof.capture.holders import UNKNOWN, HolderSearch
from memprof.capture.hooks import Hooks
from memprof.capture.iteration_ends import IterationEnds
from memprof.capture.listener import LoopListener
from memprof.capture.live import storage_key
from memprof.capture.simulated import active_simulation
from memprof.capture.storages import StorageTracker
from memprof.capture.ticks import TickClock
from memprof.capture.watching import StorageWatch
from memprof.capture.windows import Level, WatchPlan, at_growing_distances
from memprof.record.census import Holder
from memprof.record.events import DeviceState, Tick
from memprof.record.run_info import RunInfo
from memprof.record.writer import RecordingWriter

_active: list[weakref.ref[CaptureSession]] = []


class StopRun(BaseException):
    """Raised inside the user's loop to end it after `max_iterations`; passes `except Exception`."""


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How to record a run.

    Attributes:
        level: How closely to watch.
        device: `auto`, `cpu` or `cuda`: whose counters to read.
        max_iterations: Stop the loop after so many iterations, or None.
        user_folders: Installed folders that count as the user's own code.
        progress: Called after each iteration with its number, allocated and peak bytes.
    """

    level: Level = Level.AUTO
    device: str = "auto"
    max_iterations: int | None = None
    user_folders: tuple[str, ...] = ()
    progress: Callable[[int, int | None, int | None], None] | None = None


class CaptureSession:
    """Records what happens between `start` and `stop`.

    A session inside a running session records nothing of its own: its calls go to the outer one.

    Args:
        path: Where to write the recording.
        run: What is known about the run beforehand.
        options: How to record.

    Raises:
        RecordingError: The recording cannot be written.
        UsageError: `device="cuda"` and torch sees no GPU.
    """

    def __init__(self, path: Path, run: RunInfo, options: CaptureOptions) -> None:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("--device cuda: torch sees no CUDA device here; use --device auto or cpu")
        self.options = options
        self.run = run
        run.level = options.level.value
        run.python = platform.python_version()
        run.torch = str(torch.__version__)
        run.platform = platform.platform()
        run.started_unix_ns = time.time_ns()
        self._guard = Guard(run)
        self.writer = RecordingWriter(path, run, on_failure=self._guard.warn)
        self._code = UserCode(options.user_folders)
        simulated = self._simulated = active_simulation()
        run.simulated_gpu = "" if simulated is None else simulated.name
        run.dry = simulated is not None and simulated.dry is not None
        self._tracker = StorageTracker(
            self.writer,
            self._code,
            self._guard.note,
            placed=None if simulated is None else simulated.placed,
            simulated=None if simulated is None else simulated.tensor_type,
        )
        self._guard.settle = self._tracker.bury
        self._contents = ContentBooks(self._tracker, lambda: list(self._listener.optimizers))
        self._watch = StorageWatch(
            self._tracker, self._contents, self._guard.note, below=0 if simulated is None else simulated.dispatch_modes
        )
        self._census = CensusTaker(
            self._tracker,
            self._code,
            optimizers=lambda: list(self._listener.optimizers),
            modules=lambda: list(self._listener.modules.roots),
        )
        self._plan = WatchPlan(options.level)
        self._ends = IterationEnds(lambda: list(self._listener.optimizers))
        self._clock = TickClock(self._tick_ended, self._tracker.enter_phase)
        self._cuda = CudaWatch(
            run,
            self.writer,
            self._code,
            self._guard.note,
            self._clock,
            history=options.level in (Level.BLOCKS, Level.TENSORS),
            guard=self._guard.run_beside,
            found=self._read_counters,
            process_bytes=None if simulated is None else simulated.process_bytes,
        )
        # The host's memory holds what the simulated GPU does: its counter would count that twice.
        self._host: tuple[Counter, ...] = (cpu_counter(),) if simulated is None else ()
        self._listener = LoopListener(
            run=run,
            writer=self.writer,
            code=self._code,
            tracker=self._tracker,
            watch=self._watch,
            clock=self._clock,
            cuda=self._cuda,
            guard=self._guard,
            census=self._census,
            news=self._news,
            loop_ended=self._loop_ended,
            boundary=self._raise_if_done,
        )
        self._cuda.out_of_memory = self._listener.out_of_memory
        self._hooks = Hooks(self._listener, self._guard, self._listener.modules)
        self._pid = os.getpid()
        self._iterations = 0
        self._iteration_tick = 0
        """The tick that this iteration begins with."""
        self._peak: int | None = None
        self._stop_after: StopRun | None = None

    # ---- life --------------------------------------------------------------------------

    def start(self) -> None:
        """Install the hooks and begin the first tick."""
        self._listener.on = True
        _active.append(weakref.ref(self))
        run = self._guard.run
        run(self._read_counters)
        if self.options.device != "cpu":
            run(self._cuda.begin)
        if "memprof_fresh_process" not in self.run.extra:
            run(self._meet_existing)
        run(self._hooks.install)
        run(self._begin_watching)

    def _meet_existing(self) -> None:
        """Take optimizers that were there before into the books, and tensors where storages are watched."""
        objects = gc.get_objects()
        if self._plan.watching:
            kinds = self._tracker.plain
            self._tracker.found_existing(item for item in objects if type(item) in kinds)
        for item in objects:
            if issubclass(type(item), torch.optim.Optimizer) and hasattr(item, "param_groups"):  # it has been made
                self._listener.know_optimizer(item, None)

    def _begin_watching(self) -> None:
        self._clock.sample(ends=False)
        self._watch.switch(self._plan.watching)
        self._clock.watched = self._watch.on
        self._tracker.begin_tick(0)

    def stop(self, *, exit_status: int | None = None, exception: str | None = None) -> None:
        """Remove every hook and finish the recording; does nothing in a forked child or twice."""
        if not self.running or os.getpid() != self._pid:
            return
        self._listener.on = False
        self._hooks.remove()
        self._guard.run(self._final_turn)
        self._guard.run(self._cuda.end)
        self._guard.run(self._note_simulation)
        self._guard.run(self._unwatch)
        self._watch.silence()
        self._guard.run(self._note_contents)
        self._census.end()
        _active[:] = [item for item in _active if item() not in (None, self)]
        self.run.exit_status = exit_status
        self.run.exception = exception
        self._listener.complete(self.run)
        self.run.finished = True
        self._guard.run(self.writer.finish, self.run)

    def _final_turn(self) -> None:
        self._clock.turn(final=True)

    def _note_simulation(self) -> None:
        for sentence in () if self._simulated is None else self._simulated.notes():
            self._guard.note(sentence)

    def _note_contents(self) -> None:
        self.run.equal_storages = self._contents.finish()

    def fall_silent(self) -> None:
        """In a forked child: profile nothing, and never write the recording."""
        self._listener.on = False
        self._hooks.thread = -1
        self._cuda.abandon()
        self._contents.abandon()
        self._unwatch()
        self._watch.silence()

    def failed(self, error: BaseException) -> None:
        """Read, before it is gone, what an exception that ends the run tells about shapes and devices."""
        if self.running and os.getpid() == self._pid:
            self._guard.run(self._describe, error)

    def _describe(self, error: BaseException) -> None:
        self.run.failure = describe(error, self._code, input_shape=self._listener.input_shape)

    @uncompiled
    def step(self) -> None:
        """End the iteration here; from now on nothing else does."""
        if self.running and not self._guard.busy:
            self._guard.run(self._clock.at_step)
            self._raise_if_done()

    def remark(self, sentence: str) -> None:
        """Add a sentence to the notes of the report, each once."""
        self._guard.note(sentence)

    def flush(self) -> None:
        """Write down everything there is about the ticks that have ended."""
        if self.running:
            self._guard.run(self._cuda.write_blocks)

    def storages_of(self, tensors: Iterable[torch.Tensor]) -> set[int]:
        """Ids of the storages behind tensors, as far as they are in the books."""
        self._tracker.bury()
        return {live.id for tensor in tensors if (live := self._tracker.live.get(storage_key(tensor))) is not None}

    def holders_of(self, storages: Collection[int]) -> dict[int, Holder]:
        """Who keeps storages alive; those of which no Python object or no holder is found are left out.

        Args:
            storages: Ids from the books; the search is made for all of them at once, so let there be few.
        """
        self._tracker.bury()
        kinds = self._tracker.plain
        found: dict[int, torch.Tensor] = {}
        for item in tracked_objects():
            if type(item) in kinds:
                live = self._tracker.live.get(storage_key(item))  # type: ignore[arg-type]
                if live is not None and live.id in storages:
                    found[live.id] = item  # type: ignore[assignment]
        targets = list(found.values())
        holders = HolderSearch(self._code, ignore=[found, targets]).find(targets)
        return {storage: holder for storage, holder in zip(found, holders, strict=True) if holder is not UNKNOWN}

    @property
    def running(self) -> bool:
        """Whether the session is recording."""
        return self._listener.on

    @property
    def iterations(self) -> int:
        """Iterations finished so far."""
        return self._iterations

    def _read_counters(self) -> None:
        """Read the counters of the devices in use from now on."""
        self._clock.read_from((*self._cuda.counters, *self._host), self.writer.name_id)
        self.run.counter = {counter.device: counter.source for counter in self._clock.counters}
        self.run.devices = tuple(self.run.counter)

    def _news(self) -> None:
        """A new loop calls a module: watch from here on, or what its first iteration makes is never known."""
        self._plan.news()
        if self.options.level is Level.AUTO and self.running:
            self._watch.switch(True)

    def _loop_ended(self) -> None:
        """A loop over a loader has ended: what is done once an epoch comes before the next begins."""
        if self._plan.loop_ended(self._clock.allocated_bytes) and self.running:
            self._watch.switch(True)

    def _unwatch(self) -> None:
        """Stop watching storages, as far as that is possible now."""
        if self._watch.switch(False):
            self._listener.modules.ids.clear()
            self._census.kept_graphs.forget()

    # ---- ticks -------------------------------------------------------------------------

    def _tick_ended(self, tick: Tick) -> None:
        self._listener.tick_ended()
        flags = int(tick.flags)
        ended = self._ends.at(flags, explicit=self._clock.explicit, has_optimizer=self.run.has_optimizer)
        if self._watch.on:
            self._guard.run(self._take_census, tick, ended)
        log = self._tracker.log
        births, deaths, roles = log.take()
        states: list[DeviceState] = []
        if self.options.device != "cpu":
            self._guard.run(self._cuda_ended, tick, states)
        self.writer.write_tick(
            tick,
            births,
            deaths,
            roles,
            samples=self._clock.packed_samples(),
            states=states,
            passes=self._listener.passes.take(),
            last_uses=log.take_last_uses(list(self._tracker.live.values()) if flags & ticks.FINAL else ()),
        )
        if self._cuda.awake:
            self._guard.run(self._write_blocks, not flags & ticks.FINAL)
        self._plan.tick_ended(tick, self._clock.allocated_bytes, iteration_ended=ended)
        self._tracker.begin_tick(tick.index + 1)
        if self._plan.watching and self.running:
            self._watch.switch(True)
        else:
            self._unwatch()
        self._clock.watched = self._watch.on
        if ended:
            self._iterations += 1
            if at_growing_distances(self._iterations):
                self._guard.run(self._contents.check)
            self._iteration_tick = tick.index + 1
            self._listener.iteration_ended()
            self._report_progress()
            if self.options.max_iterations is not None and self._iterations >= self.options.max_iterations:
                self._stop_after = StopRun()

    def _cuda_ended(self, tick: Tick, states: list[DeviceState]) -> None:
        states.extend(self._cuda.tick_ended(tick))

    def _write_blocks(self, due: bool) -> None:
        self._cuda.write_blocks(due=due)

    def _take_census(self, tick: Tick, iteration_ended: bool) -> None:
        self._census.close_tick(tick.index)
        first_tick = self._listener.first_loop_tick
        if not iteration_ended or first_tick is None:
            return
        self._census.kept_graphs.iteration_ended()
        if self._plan.census_due:
            census = self._census.take(
                tick.index,
                first_tick=first_tick,
                iteration_tick=self._iteration_tick,
                call=self._listener.carrying_call,
            )
            self._plan.suspect(census is not None and bool(census.roots or census.groups or census.populations))
            if census is not None:
                self.writer.write_census(census)
        self._census.remember_graphs(tick.index)

    def _report_progress(self) -> None:
        if self.options.progress is None:
            return
        highest = self._clock.highest_bytes
        if highest is not None:
            self._peak = max(self._peak or 0, highest)
        self.options.progress(self._iterations, self._clock.allocated_bytes, self._peak)

    def _raise_if_done(self) -> None:
        if self._stop_after is not None:
            stop, self._stop_after = self._stop_after, None
            raise stop


def active_session() -> CaptureSession | None:
    """The session that is recording in this process, or None."""
    for reference in _active:
        session = reference()
        if session is not None and session.running and session._pid == os.getpid():
            return session
    return None


def _forget_in_child() -> None:
    """After a fork the child profiles nothing: its hooks fall silent and it never writes the recording."""
    for reference in _active:
        session = reference()
        if session is not None:
            session.fall_silent()
    _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


__all__ = ["CaptureOptions", "CaptureSession", "Level", "StopRun", "active_session"]

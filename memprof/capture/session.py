"""One profiled stretch of a live process: hooks in, ticks out, everything restored at the end."""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memprof._errors import UsageError
from memprof.capture import ticks
from memprof.capture.census import CensusTaker
from memprof.capture.counters import Counter, cpu_counter
from memprof.capture.cuda import CudaWatch
from memprof.capture.failures import describe
from memprof.capture.frames import UserCode, stack_key, tracked_objects
from memprof.capture.graph import sequence_nr
from memprof.capture.hidden import HiddenParameterWatch
from memprof.capture.holders import UNKNOWN, HolderSearch
from memprof.capture.hooks import Hooks
from memprof.capture.module_regions import ModuleRegions
from memprof.capture.optimizers import OptimizerLog
from memprof.capture.parameters import ParameterBooks
from memprof.capture.passes import PassLog
from memprof.capture.several_devices import SeveralDevices
from memprof.capture.simulated import active_simulation
from memprof.capture.storages import StorageTracker, storage_key
from memprof.capture.ticks import TickClock
from memprof.capture.windows import Level, WatchPlan
from memprof.record.events import (
    DeviceState,
    Holder,
    Location,
    ModuleRef,
    PassFlag,
    PassKind,
    Phase,
    Role,
    RunInfo,
    Tick,
    TickFlag,
)
from memprof.record.schema import NONE
from memprof.record.writer import RecordingWriter

_MOST_OUTPUTS = 16
_NEVER_STEPS = 4
"""After so many backwards an optimizer that has not stepped yet is taken for one that is not used."""

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
        self.writer = RecordingWriter(path, run, on_failure=self._warn)
        self._warned: set[str] = set()
        self._code = UserCode(options.user_folders)
        simulated = active_simulation()
        run.simulated_gpu = "" if simulated is None else simulated.name
        run.dry = simulated is not None and simulated.dry is not None
        self._tracker = StorageTracker(
            self.writer,
            self._code,
            self._note,
            placed=None if simulated is None else simulated.placed,
            simulated=None if simulated is None else simulated.tensor_type,
        )
        self._census = CensusTaker(
            self._tracker,
            self._code,
            optimizers=lambda: list(self._optimizers),
            modules=lambda: list(self._roots),
        )
        self._plan = WatchPlan(options.level)
        self._clock = TickClock(self._tick_ended, self._phase_changed)
        self._cuda = CudaWatch(
            run,
            self.writer,
            self._code,
            self._note,
            self._clock,
            history=options.level in (Level.BLOCKS, Level.TENSORS),
            guard=self._guard,
            found=self._read_counters,
            process_bytes=None if simulated is None else simulated.process_bytes,
        )
        # The host's memory holds what the simulated GPU does: its counter would count that twice.
        self._host: tuple[Counter, ...] = (cpu_counter(),) if simulated is None else ()
        self._simulated = simulated
        self._modes_below = 0 if simulated is None else simulated.dispatch_modes
        self._modules: dict[int, int] = {}
        self._roots: weakref.WeakKeyDictionary[torch.nn.Module, int] = weakref.WeakKeyDictionary()
        """Root modules and how many parameters each had when they were last learnt."""
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._passes = PassLog(self.writer.location_id)
        self._parameters = ParameterBooks(self._tracker, self.writer.write_parameters, self._optimizers)
        self._begun: dict[PassKind, tuple[int, int]] = {}
        """What `PassLog.begin` gave for the passes that run."""
        self._forward_flags = PassFlag(0)
        self._backward_line: Location | None = None
        self._backwards = 0
        self._profiles = False
        """The backward that runs leaves a profile of the parameters."""
        self._optimizer_log = OptimizerLog()
        self._hidden = HiddenParameterWatch(self._code)
        self._several_devices = SeveralDevices()
        self._running_root: weakref.ref[torch.nn.Module] | None = None
        self._input_shape: tuple[int, ...] = ()
        """Of the first argument of the root module called last."""
        self._stepped: set[int] = set()
        """Optimizers, by `id`, that have stepped in this tick."""
        self._hooks = Hooks(self, self._modules, self._enter_module, self._leave_module)
        self.busy = 0
        self._mode_on = False
        self._running = False
        self._pid = os.getpid()
        self._known_sites: set[int] = set()
        self._call: Location | None = None
        self._called_from: Location | None = None
        self._root = NONE
        """Number of the root module that runs, and the line that called it."""
        self._first_loop_tick: int | None = None
        self._iteration_tick = 0
        self._iteration_sequence_nr = 0
        self._iterations = 0
        self._backward_pending = 0
        self._ever_stepped = False
        self._forward_start: tuple[int, int | None] = (0, None)
        self._peak: int | None = None
        self._stop_after: StopRun | None = None

    # ---- life --------------------------------------------------------------------------

    def start(self) -> None:
        """Install the hooks and begin the first tick."""
        self._running = True
        _active.append(weakref.ref(self))
        self._read_counters()
        if self.options.device != "cpu":
            self._guard(self._cuda.begin)
        for item in self._existing():
            if issubclass(type(item), torch.optim.Optimizer):
                self._know_optimizer(item, None)  # type: ignore[arg-type]
        self._hooks.install()
        self._clock.sample(ends=False)
        self._watch(self._plan.watching)
        self._clock.watched = self._mode_on
        self._tracker.begin_tick(0)

    def _existing(self) -> list[object]:
        """Objects that were there before; books their tensors where storages are watched."""
        if "memprof_fresh_process" in self.run.extra:
            return []
        objects = gc.get_objects()
        if self._plan.watching:
            kinds = self._tracker.plain
            self._tracker.found_existing(item for item in objects if type(item) in kinds)
        return objects

    def stop(self, *, exit_status: int | None = None, exception: str | None = None) -> None:
        """Remove every hook and finish the recording; does nothing in a forked child or twice."""
        if not self._running or os.getpid() != self._pid:
            return
        self._running = False
        self._hooks.remove()
        self._guard(lambda: self._clock.turn(final=True))
        self._guard(self._cuda.end)
        self._guard(self._note_simulation)
        self._watch(False)
        self._tracker.mode.silent = True  # where it could not be popped it does nothing from now on
        _active[:] = [item for item in _active if item() not in (None, self)]
        self.run.exit_status = exit_status
        self.run.exception = exception
        self.run.optimizers = self._optimizer_log.made
        self.run.hidden_parameters = self._hidden.found
        self.run.model_parts = self._several_devices.parts
        self.run.gathered = self._several_devices.gathered
        self.run.finished = True
        self._guard(lambda: self.writer.finish(self.run))

    def failed(self, error: BaseException) -> None:
        """Read, before it is gone, what an exception that ends the run tells about shapes and devices."""
        if self._running and os.getpid() == self._pid:
            self._guard(lambda: self._describe(error))

    def _describe(self, error: BaseException) -> None:
        self.run.failure = describe(error, self._code, input_shape=self._input_shape)

    def step(self) -> None:
        """End the iteration here; from now on nothing else does."""
        if self._running and not self.busy:
            self._guard(self._clock.at_step)
            self._raise_if_done()

    def remark(self, sentence: str) -> None:
        """Add a sentence to the notes of the report, each once."""
        self._note(sentence)

    def flush(self) -> None:
        """Write down everything there is about the ticks that have ended."""
        if self._running:
            self._guard(self._cuda.write_blocks)

    def storages_of(self, tensors: Iterable[torch.Tensor]) -> set[int]:
        """Ids of the storages behind tensors, as far as they are in the books."""
        return {live.id for tensor in tensors if (live := self._tracker.live.get(storage_key(tensor))) is not None}

    def holders_of(self, storages: Collection[int]) -> dict[int, Holder]:
        """Who keeps storages alive; those of which no Python object or no holder is found are left out.

        Args:
            storages: Ids from the books; the search is made for all of them at once, so let there be few.
        """
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
        return self._running

    @property
    def iterations(self) -> int:
        """Iterations finished so far."""
        return self._iterations

    def _read_counters(self) -> None:
        """Read the counters of the devices in use from now on."""
        self._clock.read_from((*self._cuda.counters, *self._host), self.writer.name_id)
        self.run.counter = {counter.device: counter.source for counter in self._clock.counters}
        self.run.devices = tuple(self.run.counter)

    # ---- trouble -----------------------------------------------------------------------

    def _guard(self, action: Callable[[], None]) -> None:
        """Run a piece of the profiler so that its failure is told once and never reaches the user's code."""
        self.busy += 1
        try:
            action()
        except StopRun:
            raise
        except Exception as error:  # the user's run comes first
            self._warn(f"memprof met a problem of its own and goes on without it: {type(error).__name__}: {error}")
        finally:
            self.busy -= 1

    def _note(self, sentence: str) -> None:
        if sentence not in self.run.notes:
            self.run.notes = (*self.run.notes, sentence)

    def _note_simulation(self) -> None:
        for sentence in () if self._simulated is None else self._simulated.notes():
            self._note(sentence)

    def _warn(self, sentence: str) -> None:
        self._note(sentence)
        if sentence not in self._warned:
            self._warned.add(sentence)
            try:
                warnings.warn(sentence, RuntimeWarning, stacklevel=4)
            except RuntimeWarning:  # warnings are errors here; the note in the report says it as well
                pass

    # ---- watching ----------------------------------------------------------------------

    def _watch(self, on: bool) -> None:
        """Push or pop the dispatch mode, unless that would upset a context the user is in.

        Another mode on top would be popped in our place, and leaving `inference_mode` puts back the
        dispatch keys of when it was entered, with or without the one our mode needs.
        """
        if on == self._mode_on or torch.is_inference_mode_enabled():
            return
        below = self._modes_below
        depth = torch._C._len_torch_dispatch_stack()
        if on:
            if depth > below:
                self._note("another TorchDispatchMode was active: storages were not watched while it was")
                return
            self._tracker.mode.__enter__()
            self._mode_on = True
        else:
            if depth != below + 1 or torch._C._get_dispatch_stack_at(below) is not self._tracker.mode:
                return  # not on top: leave it until it is
            self._tracker.mode.__exit__(None, None, None)
            self._mode_on = False
            self._modules.clear()
            self._census.kept_graphs.forget()

    def _phase_changed(self, phase: Phase) -> None:
        self._tracker.phase = phase

    @property
    def _finds_roles(self) -> bool:
        """Whether tensors that hooks meet are booked with their roles."""
        return self._mode_on or self._cuda.records_blocks

    def _enter_module(self, path: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        left = self._tracker.module_id
        self._parameters.entered.add(path)
        self._tracker.module_id = path
        regions = self._regions
        if regions is not None:
            regions.enter(path, (*args, *kwargs.values()) if kwargs else args)
        return left

    def _leave_module(self, left: int, output: Any) -> None:
        self._tracker.module_id = left
        if self._regions is not None:
            self._regions.leave(left, output)

    @property
    def _regions(self) -> ModuleRegions | None:
        """Where modules run is written down where blocks are recorded and no dispatch mode sees it."""
        return None if self._mode_on else self._cuda.regions

    # ---- listener ----------------------------------------------------------------------

    def forward_begins(self, module: torch.nn.Module, args: Any, kwargs: Any, frame: Any) -> None:
        if self._running:
            self._guard(lambda: self._forward_begins(module, args, kwargs, frame))
            self._raise_if_done()
        self.busy += 1

    def _forward_begins(self, module: torch.nn.Module, args: Any, kwargs: Any, frame: Any) -> None:
        clock = self._clock
        site = stack_key(frame)
        clock.at_call(site, all_stepped=0 < len(self._optimizers) <= len(self._stepped))
        if site not in self._known_sites:
            self._known_sites.add(site)
            self._plan.news()
        if not module.training:
            if not clock.flags & ticks.FORWARD:
                clock.flags |= ticks.EVAL_MODE
        elif clock.flags & ticks.EVAL_MODE and next(module.parameters(), None) is not None:
            clock.flags &= ~ticks.EVAL_MODE  # a loss module, which nobody puts into eval mode, does not count
        clock.flags |= ticks.FORWARD
        clock.enter(Phase.FORWARD)
        self._tracker.in_forward = True
        if self._first_loop_tick is None:
            self._first_loop_tick = clock.index
        user = self._code.innermost(frame)
        call = None if user is None else self._code.location(user)
        if clock.call is None:
            clock.call = call
        inputs = _tensors_in((args, kwargs))
        self._input_shape = tuple(inputs[0].shape) if inputs else ()
        self._several_devices.called(module)
        self._running_root = weakref.ref(module)
        self._called_from = call
        self._root = self._parameters.number(module)
        self._forward_flags = _forward_flags(module, inputs)
        self._begun[PassKind.FORWARD] = self._passes.begin(PassKind.FORWARD)
        for tensor in inputs:
            if tensor.grad_fn is not None and 0 <= sequence_nr(tensor.grad_fn) < self._iteration_sequence_nr:
                self._call = call
        if self._finds_roles:
            self._learn_module(module)
            for tensor in inputs:
                self._tracker.found(tensor, Role.INPUT, op="input")
            self._enter_module(self._modules.get(id(module), NONE), args, kwargs)
        self._forward_start = (self._tracker.live_bytes, clock.allocated_bytes)

    def forward_ends(self, output: Any, *, raised: bool) -> None:
        self.busy -= 1
        if self._running:
            self._guard(lambda: self._forward_ends(output, raised))

    def _forward_ends(self, output: Any, raised: bool) -> None:
        clock = self._clock
        if raised and torch.is_grad_enabled() and not clock.flags & ticks.EVAL_MODE:
            clock.flags |= ticks.INTERRUPTED
        self._tracker.in_forward = False
        self._leave_module(NONE, output)
        outputs = _tensors_in(output)
        if self._running_root is not None:
            self._several_devices.returned(self._running_root(), outputs, self._called_from)
        graph = False
        begun = self._begun.pop(PassKind.FORWARD, None)
        for tensor in outputs:
            if tensor.grad_fn is not None:
                graph = True
                if begun is not None and hasattr(tensor.grad_fn, "register_prehook"):
                    tensor.grad_fn.register_prehook(clock.consumer(self._passes.user_of(begun[0])))
            if self._finds_roles:
                self._tracker.found(tensor, Role.OUTPUT)
        clock.forward_ended(on_device=bool(outputs) and outputs[0].is_cuda)
        live_bytes, allocated = self._forward_start
        own = sum(tensor.numel() * tensor.element_size() for tensor in outputs)
        saved: int | None = None
        if self._mode_on:
            saved = self._tracker.live_bytes - live_bytes - own
        elif allocated is not None and (now := clock.allocated_bytes) is not None:
            saved = now - allocated - own
        if saved is not None:
            clock.add_forward_bytes(saved)
        if begun is not None:
            flags = self._forward_flags | (PassFlag.GRAPH if graph else 0) | (PassFlag.RAISED if raised else 0)
            self._passes.end(
                PassKind.FORWARD,
                begun,
                location=self._called_from,
                subject=self._root,
                flags=flags,
                saved_bytes=saved,
            )
        if graph:
            clock.flags |= ticks.GRAPH
        else:
            clock.enter(Phase.OTHER)

    def backward_begins(self, outputs: Any, *, keep: bool, create: bool) -> None:
        if self._running and not self.busy:
            self._guard(lambda: self._backward_begins(outputs, keep, create))
        self.busy += 1

    def _backward_begins(self, outputs: Any, keep: bool, create: bool) -> None:
        line = self._backward_line = self._user_line()
        if self._finds_roles:
            self._tracker.backward_line = line
            self._cuda.backward(line)
            if self._regions is not None:
                self._regions.backward_begins(outputs)
            if self._mode_on:
                started_from = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
                self._census.kept_graphs.backward_begins(
                    started_from, keep=keep, create=create, line=line, tick=self._clock.index
                )
        self._backwards += 1
        self._profiles = self._mode_on or self._backwards & (self._backwards - 1) == 0
        if self._profiles:
            for optimizer in self._parameters.backward_begins():
                gone = self._passes.begin(PassKind.ZERO_GRAD)
                flags = PassFlag.SET_TO_NONE | PassFlag.SEEN_ONLY
                self._passes.end(PassKind.ZERO_GRAD, gone, location=None, subject=optimizer, flags=flags)
        self._begun[PassKind.BACKWARD] = self._passes.begin(PassKind.BACKWARD)
        self._clock.flags |= ticks.BACKWARD
        self._clock.enter(Phase.BACKWARD)

    def backward_ends(self) -> None:
        self.busy -= 1
        if self._running and not self.busy:
            self._guard(self._backward_ends)

    def _backward_ends(self) -> None:
        gradients = NONE
        if self._profiles:
            gradients = self._parameters.backward_ended(roles=self._finds_roles)
        elif self._finds_roles:
            self._parameters.find_gradients()
        begun = self._begun.pop(PassKind.BACKWARD, None)
        if begun is not None:
            flags = PassFlag.ANOMALY if torch.is_anomaly_enabled() else PassFlag(0)
            self._passes.end(PassKind.BACKWARD, begun, location=self._backward_line, flags=flags, gradients=gradients)
        if self._finds_roles:
            self._cuda.backward(None)
            self._hidden.look(self._optimizers)
            if self._regions is not None:
                self._regions.backward_ends()
        self._clock.enter(Phase.OPTIMIZER if self._clock.in_optimizer else Phase.OTHER)

    def optimizer_made(self, optimizer: torch.optim.Optimizer) -> None:
        frame = self._code.innermost(sys._getframe(1))
        self._guard(lambda: self._know_optimizer(optimizer, None if frame is None else self._code.location(frame)))

    def _know_optimizer(self, optimizer: torch.optim.Optimizer, made: Location | None) -> None:
        self.run.has_optimizer = True
        self._optimizers.add(optimizer)
        self._optimizer_log.add(optimizer, made)

    def optimizer_begins(self, optimizer: torch.optim.Optimizer) -> None:
        if self._running and not self.busy:
            self.run.has_optimizer = True
            self._guard(lambda: self._optimizer_begins(optimizer))

    def _optimizer_begins(self, optimizer: torch.optim.Optimizer) -> None:
        if id(optimizer) in self._stepped:
            self._clock.at_optimizer()
        self._begun[PassKind.STEP] = self._passes.begin(PassKind.STEP)
        self._clock.in_optimizer = True
        self._clock.enter(Phase.OPTIMIZER)

    def optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None:
        if self._running and not self.busy:
            self._guard(lambda: self._optimizer_ends(optimizer))

    def _optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizers.add(optimizer)
        self._stepped.add(id(optimizer))
        number = self._parameters.number(optimizer)
        self._parameters.settled(number)
        if (begun := self._begun.pop(PassKind.STEP, None)) is not None:
            self._passes.end(PassKind.STEP, begun, location=self._user_line(), subject=number)
        self._clock.in_optimizer = False
        self._clock.flags |= ticks.OPTIMIZER_STEP
        if self._mode_on or (self._finds_roles and self._optimizer_log.state_due(optimizer)):
            nbytes = 0
            storages = set()
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    self._tracker.found(parameter, Role.PARAMETER)
            for parameter, state in optimizer.state.items():
                for name, value in state.items() if isinstance(state, dict) else ():
                    if isinstance(value, torch.Tensor) and value is not parameter:
                        self._tracker.found(value, Role.OPTIMIZER_STATE, str(name))
                        nbytes += value.numel() * value.element_size()
                        storages.add(storage_key(value))
            self._optimizer_log.stepped(optimizer, nbytes, frozenset(storages))
        self._clock.enter(Phase.OTHER)

    def gradients_zeroed(self, owner: torch.nn.Module | torch.optim.Optimizer, *, freed: bool) -> None:
        if self._running and not self.busy:
            self._guard(lambda: self._gradients_zeroed(owner, freed))

    def _gradients_zeroed(self, owner: torch.nn.Module | torch.optim.Optimizer, freed: bool) -> None:
        line = self._user_line()
        owners: set[int] = {NONE}
        if isinstance(owner, torch.optim.Optimizer):
            owners = {self._parameters.number(owner)}
        elif self._finds_roles:
            owners = self._parameters.optimizers_of(owner) or owners
        for optimizer in sorted(owners):
            self._parameters.settled(optimizer)
            begun = self._passes.begin(PassKind.ZERO_GRAD)
            flags = PassFlag.SET_TO_NONE if freed else PassFlag(0)
            self._passes.end(PassKind.ZERO_GRAD, begun, location=line, subject=optimizer, flags=flags)

    def _user_line(self) -> Location | None:
        """The user's line that runs."""
        frame = self._code.innermost(sys._getframe(1))
        return None if frame is None else self._code.location(frame)

    def batch_wanted(self, loader: Any) -> None:
        if self._running and not self.busy:
            self._guard(lambda: self._clock.at_batch_wanted(loader))
            self._raise_if_done()

    def batch_came(self, loader: Any, *, exhausted: bool) -> None:
        if self._running and not self.busy:
            self._guard(lambda: self._clock.at_batch(loader, exhausted=exhausted))

    # ---- modules -----------------------------------------------------------------------

    def _learn_module(self, root: torch.nn.Module) -> None:
        """Learn paths, parameters and buffers of a root module the first time it is watched."""
        known = id(root) in self._modules and root in self._roots
        if known and not (self._mode_on or self._clock.index & (self._clock.index - 1) == 0):
            return  # between watched times new parameters are looked for at growing distances
        count = sum(1 for _ in root.parameters())
        if known and self._roots[root] == count:
            return
        self._roots[root] = count
        self._parameters.learn(root)
        for path, module in root.named_modules():
            self._modules[id(module)] = self._tracker.module(ModuleRef(path, type(module).__name__))
        for name, parameter in root.named_parameters():
            self._tracker.found(parameter, Role.PARAMETER, name)
        for name, buffer in root.named_buffers():
            self._tracker.found(buffer, Role.BUFFER, name)
        self._hidden.learn(root)

    # ---- ticks -------------------------------------------------------------------------

    def _tick_ended(self, tick: Tick) -> None:
        self._stepped.clear()
        ended = self._iteration_ended(tick)
        if self._mode_on:
            self._guard(lambda: self._take_census(tick, ended))
        births, deaths, roles = self._tracker.take_events()
        states = self._cuda_ended(tick)
        self.writer.write_tick(
            tick,
            births,
            deaths,
            roles,
            samples=self._clock.samples,
            states=states,
            passes=self._passes.take(),
            last_uses=self._tracker.take_last_uses(final=bool(tick.flags & TickFlag.FINAL)),
        )
        if self._cuda.awake:
            self._guard(lambda: self._cuda.write_blocks(due=not tick.flags & TickFlag.FINAL))
        self._plan.tick_ended(tick, self._clock.allocated_bytes, iteration_ended=ended)
        self._tracker.begin_tick(tick.index + 1)
        self._watch(self._plan.watching and self._running)
        self._clock.watched = self._mode_on
        if ended:
            self._iterations += 1
            self._call = None
            self._iteration_tick = tick.index + 1
            number = getattr(torch._C._autograd, "_get_sequence_nr", None)
            self._iteration_sequence_nr = number() if number is not None else 0
            self._report_progress()
            if self.options.max_iterations is not None and self._iterations >= self.options.max_iterations:
                self._stop_after = StopRun()

    def _cuda_ended(self, tick: Tick) -> list[DeviceState]:
        found: list[DeviceState] = []
        if self.options.device != "cpu":
            self._guard(lambda: found.extend(self._cuda.tick_ended(tick)))
        return found

    def _iteration_ended(self, tick: Tick) -> bool:
        """Whether the tick completes an iteration, as far as can be told now."""
        flags = tick.flags
        if self._clock.explicit:
            return bool(flags & ticks.EXPLICIT)
        if flags & ticks.OPTIMIZER_STEP:
            self._ever_stepped = True
            self._backward_pending = 0
            return True
        if flags & ticks.BACKWARD:
            self._backward_pending += 1
            accumulates = self.run.has_optimizer and (self._ever_stepped or self._backward_pending < _NEVER_STEPS)
            return not accumulates
        return bool(flags & ticks.FORWARD) and not self._backward_pending

    def _take_census(self, tick: Tick, iteration_ended: bool) -> None:
        self._census.close_tick(tick.index)
        if not iteration_ended or self._first_loop_tick is None:
            return
        self._census.kept_graphs.iteration_ended()
        if self._plan.census_due:
            census = self._census.take(
                tick.index,
                first_tick=self._first_loop_tick,
                iteration_tick=self._iteration_tick,
                call=self._call,
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


_autocast_enabled: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", torch.is_autocast_enabled)


def _forward_flags(module: torch.nn.Module, inputs: list[torch.Tensor]) -> PassFlag:
    """What can be said of a forward before it runs."""
    flags = PassFlag(0)
    if not module.training:
        flags |= PassFlag.EVAL_MODE
    if torch.is_anomaly_enabled():
        flags |= PassFlag.ANOMALY
    if _autocast_enabled():
        flags |= PassFlag.AUTOCAST
    for tensor in inputs:
        if tensor.grad_fn is not None:
            flags |= PassFlag.CHAINED
        elif tensor.requires_grad:
            flags |= PassFlag.LEAF_INPUT
    return flags


def active_session() -> CaptureSession | None:
    """The session that is recording in this process, or None."""
    for reference in _active:
        session = reference()
        if session is not None and session._running and session._pid == os.getpid():
            return session
    return None


def _forget_in_child() -> None:
    """After a fork the child profiles nothing: its hooks fall silent and it never writes the recording."""
    for reference in _active:
        session = reference()
        if session is not None:
            session._running = False
            session._hooks.thread = -1
            session._watch(False)
            session._tracker.mode.silent = True
    _active.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _tensors_in(value: Any) -> list[torch.Tensor]:
    """The first tensors in nested tuples, lists, dictionaries and dataclasses."""
    found: list[torch.Tensor] = []
    stack = [value]
    while stack and len(found) < _MOST_OUTPUTS:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            stack.extend(reversed(item[:_MOST_OUTPUTS]))
        elif isinstance(item, dict):
            stack.extend(list(item.values())[:_MOST_OUTPUTS])
        elif hasattr(type(item), "__dataclass_fields__"):
            stack.extend(vars(item).values() if hasattr(item, "__dict__") else ())
    return found


__all__ = ["CaptureOptions", "CaptureSession", "Level", "StopRun", "active_session"]

"""What is made of the events that the hooks tell: phases, passes, roles of tensors.

Most of it runs a few times in every iteration of every run. Where storages are not watched it reads counters, notes
lines and numbers, and walks neither modules nor parameters.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch

from memprof.capture import ticks
from memprof.capture.census import CensusTaker
from memprof.capture.compilation import uncompiled
from memprof.capture.cuda import CudaWatch
from memprof.capture.frames import UserCode, stack_key
from memprof.capture.graph import sequence_nr
from memprof.capture.guard import Guard
from memprof.capture.hidden import HiddenParameterWatch
from memprof.capture.modules import ModuleBooks
from memprof.capture.nested import bytes_of, tensors_in
from memprof.capture.optimizer_listener import OptimizerListener
from memprof.capture.padding import PaddingWatch
from memprof.capture.several_devices import SeveralDevices
from memprof.capture.storages import StorageTracker
from memprof.capture.ticks import TickClock
from memprof.capture.watching import StorageWatch
from memprof.record.events import Location, PassFlag, PassKind, Phase, Role
from memprof.record.run_info import RunInfo
from memprof.record.schema import NONE
from memprof.record.writer import RecordingWriter

_GRAPH, _RAISED, _ANOMALY = int(PassFlag.GRAPH), int(PassFlag.RAISED), int(PassFlag.ANOMALY)
_EVAL_MODE, _AUTOCAST = int(PassFlag.EVAL_MODE), int(PassFlag.AUTOCAST)
_CHAINED, _LEAF_INPUT = int(PassFlag.CHAINED), int(PassFlag.LEAF_INPUT)
_SET_TO_NONE, _SEEN_ONLY = int(PassFlag.SET_TO_NONE), int(PassFlag.SEEN_ONLY)
"""The flags as plain integers, as in `ticks`."""

_MOST_SITES = 256
"""In a program that goes on calling its model from new places (code that is made while it runs), that is no news."""

_autocast_enabled: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", torch.is_autocast_enabled)


class LoopListener(OptimizerListener):
    """Takes what the hooks tell; see `hooks.Listener` for when each method is called.

    Args:
        run: Told whether there is an optimizer.
        writer: The recording.
        code: Finds the user's line.
        tracker: The books of storages.
        watch: Says whether storages are watched.
        clock: Turned by what happens.
        cuda: Says whether blocks are recorded, and takes backwards and modules then.
        guard: Runs everything here.
        census: Takes backwards while storages are watched and which root module is called; refers to tensors weakly.
        news: Called when a root module is called from a place that never called before.
        loop_ended: Called when a loader has no more batches.
        boundary: Called where an iteration may have ended, after it; may raise to end the user's loop.
    """

    def __init__(
        self,
        *,
        run: RunInfo,
        writer: RecordingWriter,
        code: UserCode,
        tracker: StorageTracker,
        watch: StorageWatch,
        clock: TickClock,
        cuda: CudaWatch,
        guard: Guard,
        census: CensusTaker,
        news: Callable[[], None],
        loop_ended: Callable[[], None],
        boundary: Callable[[], None],
    ) -> None:
        super().__init__(
            run=run, writer=writer, code=code, tracker=tracker, watch=watch, clock=clock, cuda=cuda, guard=guard
        )
        self._census = census
        self._kept_graphs = census.kept_graphs
        self._news = news
        self._loop_ended = loop_ended
        self._boundary = boundary
        self._hidden = HiddenParameterWatch(code)
        self.modules = ModuleBooks(tracker, watch, cuda, self._parameters, self._hidden)
        self._several_devices = SeveralDevices()
        self._padding = PaddingWatch()
        self.first_loop_tick: int | None = None
        """The tick of the first call of a root module, or of the first backward before any."""
        self.carrying_call: Location | None = None
        """The line that gave a root module a tensor with a graph from before this iteration."""
        self._fetching = 0
        """A `DataLoader` makes a batch: what its dataset calls is no turn of the loop."""
        self._passed_over = False
        """The root module that runs is a transform of a dataset, not a model."""
        self._known_sites: set[int] = set()
        self._root_ref: weakref.ref[torch.nn.Module] | None = None
        """The root module that was called last."""
        self._root = NONE
        """Its number."""
        self._called_from: Location | None = None
        """The line that called it."""
        self._input_shape: tuple[int, ...] = ()
        self._forward_flags = 0
        self._forward_start: tuple[int, int | None] = (0, None)
        self._backward_line: Location | None = None
        self._backwards = 0
        self._profiles = False
        """The backward that runs leaves a profile of the parameters."""
        self._next_number: Callable[[], int] | None = getattr(torch._C._autograd, "_get_sequence_nr", None)
        self._iteration_sequence_nr = 0
        """Number of the first autograd node that this iteration could make."""

    # ---- for the session ---------------------------------------------------------------

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first argument of the root module called last; () where it had none."""
        return tuple(self._input_shape)

    def tick_ended(self) -> None:
        """A tick ended."""
        self._stepped.clear()

    def iteration_ended(self) -> None:
        """An iteration ended."""
        self.carrying_call = None
        self._iteration_sequence_nr = 0 if self._next_number is None else self._next_number()

    def complete(self, run: RunInfo) -> None:
        """Say what was found about optimizers and modules."""
        run.optimizers = self._optimizer_log.made
        run.hidden_parameters = self._hidden.found
        run.model_parts = self._several_devices.parts
        run.gathered = self._several_devices.gathered
        run.padded_batches = self._padding.batches

    # ---- forward -----------------------------------------------------------------------

    @uncompiled
    def forward_begins(self, module: torch.nn.Module, args: Any, kwargs: Any, frame: Any) -> None:
        if self.on:
            self._passed_over = False
            if self._fetching:
                self._guard.run(self._called_by_dataset, module)
            if not self._passed_over:
                self._guard.run(self._forward_begins, module, args, kwargs, frame)
                self._boundary()
        self._guard.busy += 1

    def _called_by_dataset(self, module: torch.nn.Module) -> None:
        self._passed_over = next(iter(module.parameters()), None) is None

    def _forward_begins(self, module: torch.nn.Module, args: Any, kwargs: Any, frame: Any) -> None:
        clock = self._clock
        site = stack_key(frame)
        stepped = len(self._stepped)
        all_stepped = stepped > 0 and 0 < len(self.optimizers) <= stepped
        began = not self._fetching and clock.at_call(site, all_stepped=all_stepped)
        if site not in self._known_sites and len(self._known_sites) < _MOST_SITES:
            self._known_sites.add(site)
            self._news()
        training = module.training
        if not training:
            if not clock.flags & ticks.FORWARD:
                clock.flags |= ticks.EVAL_MODE
        elif clock.flags & ticks.EVAL_MODE and next(iter(module.parameters()), None) is not None:
            clock.flags &= ~ticks.EVAL_MODE  # a loss module, which nobody puts into eval mode, does not count
        clock.flags |= ticks.FORWARD
        clock.enter(Phase.FORWARD, just_read=began)
        self._tracker.in_forward = True
        if self.first_loop_tick is None:
            self.first_loop_tick = clock.index
        user = self._code.innermost(frame)
        call = None if user is None else self._code.location(user)
        if clock.call is None:
            clock.call = call
        self._called_from = call
        if self._root_ref is None or self._root_ref() is not module:
            self._root_ref = weakref.ref(module)
            self._root = self._parameters.number(module)
            self._several_devices.called(module)
            self._census.model_calls.called(module, clock.index)
        inputs = tensors_in((args, kwargs) if kwargs else args)
        self._input_shape = inputs[0].shape if inputs else ()
        flags = 0 if training else _EVAL_MODE
        if torch.is_anomaly_enabled():
            flags |= _ANOMALY
        if _autocast_enabled():
            flags |= _AUTOCAST
        for tensor in inputs:
            node = tensor.grad_fn
            if node is not None:
                flags |= _CHAINED
                if 0 <= sequence_nr(node) < self._iteration_sequence_nr:
                    self.carrying_call = call
            elif tensor.requires_grad:
                flags |= _LEAF_INPUT
        self._forward_flags = flags
        self._begun[PassKind.FORWARD] = self.passes.begin(PassKind.FORWARD)
        if self._finds_roles:
            self.modules.learn(module, tick=clock.index)
            for tensor in inputs:
                self._tracker.found(tensor, Role.INPUT, op="input")
            self.modules.enter(self.modules.ids.get(id(module), NONE), args, kwargs)
        self._forward_start = (self._tracker.live_bytes, clock.allocated_bytes)

    @uncompiled
    def forward_ends(self, output: Any, *, raised: bool) -> None:
        self._guard.busy -= 1
        if self.on and not self._passed_over:
            self._guard.run(self._forward_ends, output, raised)

    def _forward_ends(self, output: Any, raised: bool) -> None:
        clock = self._clock
        if raised and torch.is_grad_enabled() and not clock.flags & ticks.EVAL_MODE:
            clock.flags |= ticks.INTERRUPTED
        self._tracker.in_forward = False
        self.modules.leave(NONE, output)
        outputs = tensors_in(output)
        if self._root_ref is not None:
            self._several_devices.returned(self._root_ref(), outputs, self._called_from)
        finds_roles = self._finds_roles
        graph = False
        own = 0
        begun = self._begun.pop(PassKind.FORWARD, None)
        for tensor in outputs:
            own += bytes_of(tensor)
            node = tensor.grad_fn
            if node is not None:
                graph = True
                if begun is not None and hasattr(node, "register_prehook"):
                    node.register_prehook(clock.consumer(self.passes.user_of(begun[0])))
            if finds_roles:
                self._tracker.found(tensor, Role.OUTPUT)
        clock.forward_ended(on_device=bool(outputs) and outputs[0].is_cuda)
        live_bytes, allocated = self._forward_start
        saved: int | None = None
        if self._watch.on:
            saved = self._tracker.live_bytes - live_bytes - own
        elif allocated is not None and (now := clock.allocated_bytes) is not None:
            saved = now - allocated - own
        if saved is not None:
            clock.add_forward_bytes(saved)
        if begun is not None:
            self.passes.end(
                PassKind.FORWARD,
                begun,
                location=self._called_from,
                subject=self._root,
                flags=self._forward_flags | (_GRAPH if graph else 0) | (_RAISED if raised else 0),
                saved_bytes=saved,
            )
        if graph:
            clock.flags |= ticks.GRAPH
        else:
            clock.enter(Phase.OTHER)

    # ---- backward ----------------------------------------------------------------------

    @uncompiled
    def backward_begins(self, outputs: Any, *, keep: bool, create: bool) -> None:
        if self.on and not self._guard.busy:
            self._guard.run(self._backward_begins, outputs, keep, create)
            self._boundary()
        self._guard.busy += 1

    def _backward_begins(self, outputs: Any, keep: bool, create: bool) -> None:
        user = self._code.innermost(sys._getframe(1))
        if not self._clock.flags & ticks.FORWARD:  # the loop is one of functions, which nobody sees called
            self._clock.at_call(stack_key(user))
            if self.first_loop_tick is None:
                self.first_loop_tick = self._clock.index
        line = self._backward_line = None if user is None else self._code.location(user)
        if self._finds_roles:
            self._tracker.backward_line = line
            self._cuda.backward(line)
            regions = self.modules.regions
            if regions is not None:
                regions.backward_begins(outputs)
            if self._watch.on:
                started_from = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
                self._kept_graphs.backward_begins(
                    started_from, keep=keep, create=create, line=line, tick=self._clock.index
                )
        self._backwards += 1
        self._profiles = self._watch.on or self._backwards & (self._backwards - 1) == 0
        if self._profiles:
            for optimizer in self._parameters.backward_begins():
                gone = self.passes.begin(PassKind.ZERO_GRAD)
                flags = _SET_TO_NONE | _SEEN_ONLY
                self.passes.end(PassKind.ZERO_GRAD, gone, location=None, subject=optimizer, flags=flags)
        self._begun[PassKind.BACKWARD] = self.passes.begin(PassKind.BACKWARD)
        self._clock.flags |= ticks.BACKWARD
        self._clock.enter(Phase.BACKWARD)

    @uncompiled
    def backward_ends(self) -> None:
        guard = self._guard
        guard.busy -= 1
        if self.on and not guard.busy:
            guard.run(self._backward_ends)

    def _backward_ends(self) -> None:
        finds_roles = self._finds_roles
        gradients = NONE
        if self._profiles:
            gradients = self._parameters.backward_ended(roles=finds_roles)
        elif finds_roles:
            self._parameters.find_gradients()
        begun = self._begun.pop(PassKind.BACKWARD, None)
        if begun is not None:
            flags = _ANOMALY if torch.is_anomaly_enabled() else 0
            self.passes.end(PassKind.BACKWARD, begun, location=self._backward_line, flags=flags, gradients=gradients)
        if finds_roles:
            self._cuda.backward(None)
            self._hidden.look(self.optimizers)
            regions = self.modules.regions
            if regions is not None:
                regions.backward_ends()
        self._clock.enter(Phase.OPTIMIZER if self._clock.in_optimizer else Phase.OTHER)

    # ---- tensors -----------------------------------------------------------------------

    @uncompiled
    def tensors_swapped(self, *tensors: torch.Tensor) -> None:
        self._guard.run_beside(self._census.forget, *tensors)

    @uncompiled
    def storage_resized(self, storage: torch.UntypedStorage) -> None:
        if self.on:
            self._guard.run_beside(self._tracker.storage_resized, storage)

    # ---- batches -----------------------------------------------------------------------

    @uncompiled
    def batch_wanted(self, loader: Any) -> None:
        if self.on and not self._guard.busy and not self._fetching:
            self._guard.run(self._clock.at_batch_wanted, loader)
            self._boundary()
        self._fetching += 1

    @uncompiled
    def batch_came(self, loader: Any, *, exhausted: bool, batch: Any = None) -> None:
        self._fetching -= 1
        if self._fetching:
            return
        if self.on and not self._guard.busy:
            self._guard.run(self._batch_came, loader, exhausted, batch)

    @uncompiled
    def batch_failed(self) -> None:
        self._fetching -= 1

    def _batch_came(self, loader: Any, exhausted: bool, batch: Any) -> None:
        self._clock.at_batch(loader, exhausted=exhausted)
        if exhausted:
            self._loop_ended()
        elif self._watch.on:
            self._padding.came(loader, batch, tick=self._clock.index, location=self._user_line())

"""What is made of the events of optimizers: passes, the end of an iteration, roles of their state."""

from __future__ import annotations

import sys
import weakref

import torch

from memprof.capture import ticks
from memprof.capture.compilation import uncompiled
from memprof.capture.cuda import CudaWatch
from memprof.capture.frames import UserCode
from memprof.capture.guard import Guard
from memprof.capture.optimizers import OptimizerLog
from memprof.capture.parameters import ParameterBooks
from memprof.capture.passes import PassLog
from memprof.capture.storages import StorageTracker
from memprof.capture.ticks import TickClock
from memprof.capture.watching import StorageWatch
from memprof.record.events import Location, PassFlag, PassKind, Phase
from memprof.record.run_info import RunInfo
from memprof.record.schema import NONE
from memprof.record.writer import RecordingWriter

_SET_TO_NONE = int(PassFlag.SET_TO_NONE)
"""The flag as a plain integer, as in `ticks`."""


class OptimizerListener:
    """Takes what the hooks tell of optimizers and of `zero_grad`, as far as `hooks.Listener` is about them.

    Args:
        run: Told whether there is an optimizer.
        writer: The recording.
        code: Finds the user's line.
        tracker: The books of storages.
        watch: Says whether storages are watched.
        clock: Turned by what happens.
        cuda: Says whether blocks are recorded.
        guard: Runs everything here.
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
    ) -> None:
        self._run = run
        self._code = code
        self._tracker = tracker
        self._watch = watch
        self._clock = clock
        self._cuda = cuda
        self._guard = guard
        self.on = False
        """Whether to listen."""
        self.optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self.passes = PassLog(writer.location_id)
        self._parameters = ParameterBooks(tracker, writer.write_parameters, self.optimizers)
        self._optimizer_log = OptimizerLog()
        self._stepped: set[int] = set()
        """Optimizers, by `id`, that have stepped in this tick."""
        self._stepping: weakref.ref[torch.optim.Optimizer] | None = None
        """The optimizer whose step runs."""
        self._begun: dict[PassKind, tuple[int, int]] = {}
        """What `PassLog.begin` gave for the passes that run."""

    @property
    def _finds_roles(self) -> bool:
        """Whether tensors that hooks meet are booked with their roles."""
        return self._watch.on or self._cuda.records_blocks

    def _user_line(self) -> Location | None:
        """The user's line that runs."""
        frame = self._code.innermost(sys._getframe(1))
        return None if frame is None else self._code.location(frame)

    @uncompiled
    def optimizer_made(self, optimizer: torch.optim.Optimizer) -> None:
        frame = self._code.innermost(sys._getframe(1))
        self._guard.run(self.know_optimizer, optimizer, None if frame is None else self._code.location(frame))

    def know_optimizer(self, optimizer: torch.optim.Optimizer, made: Location | None) -> None:
        """Take an optimizer into the books.

        Args:
            optimizer: It.
            made: The user's line that made it; None where that was before recording began.
        """
        self._run.has_optimizer = True
        self.optimizers.add(optimizer)
        self._optimizer_log.add(optimizer, made)

    @uncompiled
    def optimizer_begins(self, optimizer: torch.optim.Optimizer) -> None:
        if self.on and not self._guard.busy:
            self._run.has_optimizer = True
            self._guard.run(self._optimizer_begins, optimizer)

    def _optimizer_begins(self, optimizer: torch.optim.Optimizer) -> None:
        if id(optimizer) in self._stepped:
            self._clock.at_optimizer()
        self._begun[PassKind.STEP] = self.passes.begin(PassKind.STEP)
        self._stepping = weakref.ref(optimizer)
        self._clock.in_optimizer = True
        self._clock.enter(Phase.OPTIMIZER)

    @uncompiled
    def optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None:
        if self.on and not self._guard.busy:
            self._guard.run(self._optimizer_ends, optimizer)

    def _optimizer_ends(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizers.add(optimizer)
        self._stepped.add(id(optimizer))
        self._stepping = None
        number = self._parameters.number(optimizer)
        self._parameters.settled(number)
        begun = self._begun.pop(PassKind.STEP, None)
        if begun is not None:
            self.passes.end(PassKind.STEP, begun, location=self._user_line(), subject=number)
        self._clock.in_optimizer = False
        self._clock.flags |= ticks.OPTIMIZER_STEP
        if self._watch.on or (self._cuda.records_blocks and self._optimizer_log.state_due(optimizer)):
            self._optimizer_log.find_state(optimizer, self._tracker)
        self._clock.enter(Phase.OTHER)

    def out_of_memory(self) -> None:
        """A device is full: what a step that does not end has made of its state is state all the same."""
        optimizer = None if self._stepping is None or not self._clock.in_optimizer else self._stepping()
        if optimizer is not None and self._finds_roles:
            self._optimizer_log.find_state(optimizer, self._tracker)

    @uncompiled
    def gradients_zeroed(self, owner: torch.nn.Module | torch.optim.Optimizer, *, freed: bool) -> None:
        if self.on and not self._guard.busy:
            self._guard.run(self._gradients_zeroed, owner, freed)

    def _gradients_zeroed(self, owner: torch.nn.Module | torch.optim.Optimizer, freed: bool) -> None:
        line = self._user_line()
        flags = _SET_TO_NONE if freed else 0
        if isinstance(owner, torch.optim.Optimizer):
            self._zeroed(self._parameters.number(owner), line, flags)
            return
        owners = self._parameters.optimizers_of(owner) if self._finds_roles else set()
        for optimizer in sorted(owners or {NONE}):
            self._zeroed(optimizer, line, flags)

    def _zeroed(self, optimizer: int, line: Location | None, flags: int) -> None:
        self._parameters.settled(optimizer)
        begun = self.passes.begin(PassKind.ZERO_GRAD)
        self.passes.end(PassKind.ZERO_GRAD, begun, location=line, subject=optimizer, flags=flags)

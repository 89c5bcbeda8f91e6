"""A run written down as passes, for rules that decide on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from memprof.model.build import build
from memprof.model.memory import MemoryModel
from memprof.record.events import (
    Location,
    ModuleRef,
    ParameterProfile,
    ParameterShare,
    Pass,
    PassFlag,
    PassKind,
    Phase,
    Role,
)
from tests.unit.model.fake_recording import TRAIN_FLAGS, FakeRecording

MIB = 1 << 20
NO_FLAGS = PassFlag(0)


def line(number: int, function: str = "train") -> Location:
    """A line of the made-up script."""
    return Location("train.py", number, function)


@dataclass
class Story:
    """Passes and storages in the order in which things happen.

    Root modules and optimizers go by number: module 0 and optimizer 10 belong together, as do 1 and 11.
    """

    recording: FakeRecording = field(default_factory=FakeRecording)
    next_pass: int = 0

    def shares(self, *rows: ParameterShare) -> int:
        """Number of a profile."""
        number = len(self.recording.parameters)
        self.recording.parameters.append(ParameterProfile(number, rows))
        return number

    def _pass(self, kind: PassKind, start_ns: int, where: Location | None, **facts: object) -> int:
        number, self.next_pass = self.next_pass, self.next_pass + 1
        self.recording.now += 1
        item = Pass(number, kind, self.recording.tick, start_ns, self.recording.now, where, **facts)  # type: ignore[arg-type]
        self.recording.passes.append(item)
        return number

    def forward(
        self,
        root: int,
        at: int,
        *,
        saved: int = 2 * MIB,
        flags: PassFlag = PassFlag.GRAPH,
        dtype: str = "float32",
    ) -> tuple[int, list[int]]:
        """A forward of a module; gives its number and what it saved."""
        self.recording.sample(Phase.FORWARD, ends=False)
        start = self.recording.now
        made = [self.recording.birth(saved, location=line(at), dtype=dtype)]
        made.append(self.recording.birth(64, role=Role.OUTPUT, location=line(at)))
        number = self._pass(PassKind.FORWARD, start, line(at), subject=root, flags=flags, saved_bytes=saved)
        self.recording.sample(Phase.FORWARD, ends=True)
        return number, made

    def backward(
        self, *uses: int, gradients: int | None = None, frees: tuple[int, ...] = (), flags: PassFlag = NO_FLAGS
    ) -> int:
        """A backward that used the graphs of some forwards."""
        self.recording.sample(Phase.BACKWARD, ends=False)
        start = self.recording.now
        self.recording.death(*frees)
        number = self._pass(PassKind.BACKWARD, start, line(90), subject=None, flags=flags, gradients=gradients)
        self.recording.passes[-1] = self.recording.passes[-1]._replace(uses=uses)
        self.recording.sample(Phase.BACKWARD, ends=True)
        return number

    def step(self, optimizer: int) -> None:
        """An optimizer's step."""
        self._pass(PassKind.STEP, self.recording.now, line(91), subject=optimizer, flags=PassFlag(0))

    def zero(self, optimizer: int, *, freed: bool = True) -> None:
        """A `zero_grad`."""
        flags = PassFlag.SET_TO_NONE if freed else PassFlag(0)
        self._pass(PassKind.ZERO_GRAD, self.recording.now, line(92), subject=optimizer, flags=flags)

    def end(self) -> None:
        """End the iteration."""
        self.recording.end_tick(TRAIN_FLAGS)

    def model(self) -> MemoryModel:
        """What was told so far."""
        return build(self.recording)


def share(
    root: int,
    path: str = "",
    *,
    optimizer: int | None = None,
    gradient: int = 0,
    nbytes: int = MIB,
    requires_grad: bool = True,
    entered: bool = True,
    changed: bool = False,
    written: bool = False,
) -> ParameterShare:
    """Parameters of a module."""
    module = ModuleRef(path, "Linear")
    return ParameterShare(root, module, optimizer, requires_grad, 1, nbytes, gradient, entered, changed, written)

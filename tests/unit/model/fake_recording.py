"""A recording in memory, and a small language to write one in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from memprof.record.blocks import AllocatorHistory, BlockLog
from memprof.record.census import Census
from memprof.record.events import (
    Birth,
    Death,
    DeviceState,
    Location,
    ModuleRef,
    OutOfMemory,
    ParameterProfile,
    Pass,
    Phase,
    Role,
    RoleFact,
    Sample,
    Tick,
    TickFlag,
)
from memprof.record.run_info import RunInfo

TRAIN_FLAGS = TickFlag.FORWARD | TickFlag.BACKWARD | TickFlag.OPTIMIZER_STEP
LINE = Location("train.py", 10, "train")


@dataclass
class FakeRecording:
    """A recording that is written by calling methods in the order in which things happen.

    Every call takes one nanosecond. `counter_noise` is what the process holds apart from tensors.
    """

    run: RunInfo = field(default_factory=lambda: RunInfo(devices=("cpu",), has_optimizer=True))
    ticks: list[Tick] = field(default_factory=list)
    censuses: list[Census] = field(default_factory=list)
    states: list[DeviceState] = field(default_factory=list)
    ooms: list[OutOfMemory] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    parameters: list[ParameterProfile] = field(default_factory=list)
    used_at: dict[int, int] = field(default_factory=dict)
    log: BlockLog | None = None
    history: AllocatorHistory | None = None
    birth_rows: list[Birth] = field(default_factory=list)
    death_rows: list[Death] = field(default_factory=list)
    role_rows: list[RoleFact] = field(default_factory=list)
    device: str = "cpu"
    now: int = 0
    tick: int = 0
    phase: Phase = Phase.OTHER
    watching: bool = True
    live: dict[int, int] = field(default_factory=dict)
    counter_noise: int = 1_000_000
    peak_counter: int | None = None
    reserved: int | None = None
    next_id: int = 1
    samples: list[Sample] = field(default_factory=list)
    started: int = 0

    def last_uses(self) -> dict[int, int]:
        return self.used_at

    def block_log(self) -> BlockLog | None:
        return self.log

    def births(self) -> Iterator[Birth]:
        return iter(self.birth_rows)

    def deaths(self) -> Iterator[Death]:
        return iter(self.death_rows)

    def roles(self) -> Iterator[RoleFact]:
        return iter(self.role_rows)

    @property
    def tensor_bytes(self) -> int:
        return sum(self.live.values())

    def birth(
        self,
        nbytes: int,
        *,
        role: Role | None = None,
        name: str = "",
        op: str = "aten::empty",
        location: Location | None = LINE,
        module: ModuleRef | None = None,
        dtype: str = "float32",
    ) -> int:
        self.now += 1
        storage, self.next_id = self.next_id, self.next_id + 1
        self.live[storage] = nbytes
        if self.peak_counter is not None:
            self.peak_counter = max(self.peak_counter, self.tensor_bytes + self.counter_noise)
        if self.watching:
            self.birth_rows.append(
                Birth(
                    storage,
                    self.now,
                    self.tick,
                    self.phase,
                    nbytes,
                    dtype,
                    self.device,
                    op,
                    location,
                    None,
                    module,
                )
            )
            if role is not None:
                self.role_rows.append(RoleFact(storage, role, name))
        return storage

    def death(self, *storages: int) -> None:
        known = {birth.storage for birth in self.birth_rows}
        for storage in storages:
            self.now += 1
            del self.live[storage]
            if storage in known:
                self.death_rows.append(Death(storage, self.now, self.tick, self.phase))

    def sample(self, phase: Phase, *, ends: bool) -> None:
        self.now += 1
        self.phase = Phase.OTHER if ends else phase
        allocated = self.tensor_bytes + self.counter_noise
        self.samples.append(Sample(self.now, phase, ends, self.device, allocated, self.reserved, self.peak_counter))

    def end_tick(self, flags: TickFlag = TRAIN_FLAGS) -> None:
        self.sample(Phase.OTHER, ends=True)
        if self.watching:
            flags |= TickFlag.TRACKED
        self.ticks.append(Tick(self.tick, self.started, self.now, flags, samples=tuple(self.samples)))
        self.samples = []
        self.tick += 1
        self.now += 1
        self.started = self.now
        self.sample(Phase.OTHER, ends=False)

    def watch(self, watching: bool) -> None:
        self.watching = watching

    def step(
        self,
        *,
        carried: tuple[int, ...] = (),
        activation: int = 100,
        gradient: int = 40,
        leak: int = 0,
        leak_location: Location | None = LINE,
    ) -> tuple[int, ...]:
        """One train iteration; frees `carried` after its forward and returns its own output."""
        inputs = self.birth(10, role=Role.INPUT)
        self.sample(Phase.FORWARD, ends=False)
        temporary = self.birth(30)
        hidden = self.birth(activation)
        self.death(temporary)
        output = self.birth(20, role=Role.OUTPUT)
        if leak:
            self.birth(leak, location=leak_location, op="aten::leak")
        self.sample(Phase.FORWARD, ends=True)
        self.death(*carried)
        self.sample(Phase.BACKWARD, ends=False)
        grad = self.birth(gradient, role=Role.GRADIENT)
        detail = self.birth(5)
        self.death(detail, hidden)
        self.sample(Phase.BACKWARD, ends=True)
        self.sample(Phase.OPTIMIZER, ends=False)
        scratch = self.birth(7)
        self.death(scratch)
        self.sample(Phase.OPTIMIZER, ends=True)
        self.death(grad, inputs)
        self.end_tick()
        return (output,)

"""What happened in a run, tick by tick, as plain values: no torch, no behaviour.

Times are nanoseconds of `time.perf_counter_ns`, sizes are bytes, and an unknown value is `None`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Phase(enum.IntEnum):
    """The part of an iteration in which something happened."""

    OTHER = 0
    FORWARD = 1
    BACKWARD = 2
    OPTIMIZER = 3

    @property
    def label(self) -> str:
        """Lower-case name as shown to people: `forward`."""
        return self.name.lower()


class TickFlag(enum.IntFlag):
    """What was seen during a tick."""

    FORWARD = 1
    """A root module was called."""
    BACKWARD = 2
    """The autograd engine ran."""
    OPTIMIZER_STEP = 4
    """An optimizer made a step."""
    BATCH = 8
    """The tick began with a batch from a `DataLoader`."""
    EXPLICIT = 16
    """The tick ended where the user said so: `prof.step()` or `memprof.iterations(...)`."""
    TRACKED = 32
    """Every storage was watched during the whole tick (level `tensors`)."""
    GRAPH = 64
    """A root module returned a tensor with a `grad_fn`."""
    EVAL_MODE = 128
    """Every root module called was in `eval()` mode."""
    FINAL = 256
    """The tick was cut off by the end of the run."""
    BLOCKS = 512
    """The CUDA allocator's history holds every event of the tick."""
    INTERRUPTED = 1024
    """A root module that was training raised, so that no backward could follow."""


class Role(enum.IntFlag):
    """What a storage is to the program, as far as capture could see."""

    PARAMETER = 1
    BUFFER = 2
    GRADIENT = 4
    OPTIMIZER_STATE = 8
    INPUT = 16
    """Passed to a root module."""
    OUTPUT = 32
    """Returned by a root module."""
    SAVED = 64
    """Reachable as a saved tensor of an autograd graph when graphs were last walked."""
    WRITTEN = 128
    """A parameter or buffer that was changed in place outside forward, backward and optimizer step."""


class PassKind(enum.IntEnum):
    """What torch was asked to do."""

    FORWARD = 0
    """A root module was called."""
    BACKWARD = 1
    """The autograd engine ran."""
    STEP = 2
    """An optimizer made a step."""
    ZERO_GRAD = 3
    """Gradients were freed or set to zero."""


class PassFlag(enum.IntFlag):
    """How a pass went."""

    GRAPH = 1
    """A forward returned a tensor with a `grad_fn`."""
    EVAL_MODE = 2
    """The root module was in `eval()` mode."""
    AUTOCAST = 4
    """The forward began under `torch.autocast`."""
    ANOMALY = 8
    """Autograd's anomaly mode was on."""
    CHAINED = 16
    """A forward was given a tensor with a `grad_fn`."""
    LEAF_INPUT = 32
    """A forward was given a leaf that requires a gradient."""
    SET_TO_NONE = 64
    """`zero_grad` freed the gradients instead of setting them to zero."""
    RAISED = 128
    """The forward raised."""
    SEEN_ONLY = 256
    """Nobody called `zero_grad`: gradients that had been there were found gone."""


class Location(NamedTuple):
    """A line of source code."""

    file: str
    line: int
    function: str


class ModuleRef(NamedTuple):
    """A module by its path below the root module that was called; the root's path is ''."""

    path: str
    type_name: str


class Sample(NamedTuple):
    """Memory counters of one device, read at a phase boundary."""

    time_ns: int
    phase: Phase
    ends: bool
    """True where the phase ends, False where it starts."""
    device: str
    allocated_bytes: int
    reserved_bytes: int | None
    peak_allocated_bytes: int | None
    """The device's own peak counter since the process started, where it has one."""
    operations: int | None = None
    """Blocks allocated and blocks freed since the process started, added up, where the device counts
    them: places the sample exactly among the allocator's events."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The stretch between two places where an iteration could end.

    Ticks are what capture writes; `memprof.record.iterations` groups them into iterations. One
    iteration with gradient accumulation over four batches is four ticks.
    """

    index: int
    start_ns: int
    end_ns: int
    flags: TickFlag
    consumed: tuple[int, ...] = ()
    """Earlier ticks whose autograd graph a backward of this tick used."""
    samples: tuple[Sample, ...] = ()
    forward_bytes: int | None = None
    """Bytes the root forwards of this tick left allocated apart from their outputs."""
    epoch: int = 0
    """How many loops over a `DataLoader` had started."""
    call: Location | None = None
    """The user's line that made the first root-module call of the tick."""


class Birth(NamedTuple):
    """A storage came to be."""

    storage: int
    time_ns: int
    tick: int
    phase: Phase
    nbytes: int
    dtype: str
    device: str
    op: str
    location: Location | None
    """Line of the user's code that was running; in backward the line that called backward."""
    forward_location: Location | None
    """In backward: the line of the forward whose gradient was being computed."""
    module: ModuleRef | None
    address: int | None = None
    """On CUDA: where the storage begins, which is what ties it to a block of the caching allocator."""


class Death(NamedTuple):
    """A storage was freed."""

    storage: int
    time_ns: int
    tick: int
    phase: Phase


class RoleFact(NamedTuple):
    """A storage was found to play a role; `name` is the parameter's name where it has one."""

    storage: int
    role: Role
    name: str


class Pass(NamedTuple):
    """A forward of a root module, a backward, an optimizer's step or a `zero_grad`, in order of their begin."""

    id: int
    kind: PassKind
    tick: int
    start_ns: int
    end_ns: int
    location: Location | None
    """The user's line that asked for it."""
    subject: int | None
    """The root module that was called, or the optimizer that stepped or whose gradients went, numbered in
    the order they were met; None for a backward, and where it is not known."""
    flags: PassFlag
    saved_bytes: int | None = None
    """What a forward left allocated apart from its output."""
    gradients: int | None = None
    """The `ParameterProfile` a backward left: each watched one, and the 1st, 2nd, 4th, 8th... of the run."""
    uses: tuple[int, ...] = ()
    """Forwards whose graph a backward used."""


@dataclass(frozen=True, slots=True)
class ParameterShare:
    """The parameters that one module of a root has itself and that have the rest of these facts in common."""

    root: int
    """Number of the root module."""
    module: ModuleRef
    optimizer: int | None
    """Number of an optimizer that holds them; where several do, there is a share for each."""
    requires_grad: bool
    count: int
    nbytes: int
    gradient_bytes: int
    """Gradients that this backward wrote or added to."""
    entered: bool
    """The module has been called while storages were watched."""
    changed: bool
    """At least one was changed in place since it was first met: by an optimizer or by hand."""
    written: bool
    """At least one was changed in place outside forward, backward and optimizer step."""


@dataclass(frozen=True, slots=True)
class ParameterProfile:
    """Parameters of the root modules after a backward."""

    id: int
    shares: tuple[ParameterShare, ...]


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What is known of one CUDA device at the end of a tick, in bytes; None is unknown.

    Source:
        `torch.cuda.memory_stats`, `cudaMemGetInfo` and NVML.
    """

    device: str
    tick: int
    time_ns: int
    allocated_bytes: int
    active_bytes: int
    requested_bytes: int
    reserved_bytes: int
    inactive_split_bytes: int
    private_pool_bytes: int | None
    """Reserved by pools of CUDA graphs and `torch.cuda.MemPool`."""
    alloc_retries: int
    """Times the allocator had to empty its cache and try again, since the process started."""
    ooms: int
    device_allocs: int | None
    """`cudaMalloc` calls since the process started."""
    device_frees: int | None
    driver_free_bytes: int | None = None
    driver_total_bytes: int | None = None
    process_bytes: int | None = None
    """What the driver counts for this process: context, caching allocator and libraries."""
    host_reserved_bytes: int | None = None
    """Pinned host memory held by the caching host allocator."""


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """One `torch.OutOfMemoryError` as the allocator saw it, in bytes; None is unknown."""

    tick: int
    time_ns: int
    device: str
    phase: Phase
    requested_bytes: int
    """What the failing op asked for, rounded to a block."""
    segment_bytes: int
    """What the allocator wanted from the driver for it."""
    total_bytes: int | None
    """The device's memory, or the limit set for this process."""
    free_bytes: int | None
    """What the driver had left."""
    allocated_bytes: int
    reserved_bytes: int
    largest_hole_bytes: int | None
    """Largest cached block the request could have used, were it large enough."""
    stranded_bytes: int | None
    """Free bytes in segments that are partly in use, which cannot go back to the driver."""
    location: Location | None
    process_bytes: int | None = None
    operations: int | None = None

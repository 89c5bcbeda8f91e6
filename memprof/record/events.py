"""What a recording holds, as plain values: no torch, no behaviour.

Times are nanoseconds of `time.perf_counter_ns`, sizes are bytes, and an unknown value is `None`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple


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
    """Number of the optimizer that holds them."""
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
class Holder:
    """Who keeps something alive, in the user's words."""

    kind: str
    """local | global | attribute | closure | generator | hook | context | cache | queue | future | thread |
    traceback | notebook | cycle | unknown."""
    text: str
    """One phrase: "list `history` in `train()` train.py:41"."""
    name: str = ""
    """The variable, attribute or module path that holds it."""
    container: str = ""
    """Type of the container the tensors lie in (`list`, `dict`, `deque`), or ''."""
    size: int | None = None
    """Tensors in that container at the time."""
    bounded: bool = False
    """The container limits its own length (`deque(maxlen=...)`, `lru_cache(maxsize=...)`)."""
    location: Location | None = None
    """The line that runs in the holding frame, or where the holding function is defined."""
    owner: str = ""
    """Function or class the holder belongs to: `train`, `Meter`."""
    keyed_by: str = ""
    """What the keys of a dictionary or cache are: `tensor`, `address` (`id(x)`, `data_ptr()`), `value`, or ''
    where that was not looked at."""
    hits: int | None = None
    """How often a cache had what was asked for; None where it does not count."""


@dataclass(frozen=True, slots=True)
class CodeRegion:
    """Lines of the user's code that torch calls back, whatever the loop looks like."""

    kind: str
    """`hook`, `context` (an autograd function), `dataset` or `collate`."""
    text: str
    """One phrase: "forward hook on `backbone.layer4`"."""
    file: str
    first_line: int
    last_line: int


@dataclass(frozen=True, slots=True)
class KeptGraph:
    """What one line's backwards did with `retain_graph=True` or `create_graph=True`, since watching began."""

    location: Location | None
    create_graph: bool
    calls: int
    """Backwards that kept their graph and of which is known whether it was used again."""
    used_again: int
    """Those of them whose graph a later backward of the same or the next iteration went through."""
    nodes: int
    """Autograd nodes of the largest of these graphs, counted up to a limit."""
    nbytes: int
    """Bytes saved in the largest that were still there after its backward, parameters and their like left out."""
    storages: tuple[int, ...]
    """Ids of the storages behind `nbytes`."""
    ticks: tuple[int, ...] = ()
    """The ticks of the last of these backwards."""


@dataclass(frozen=True, slots=True)
class ContextTensor:
    """Tensors that autograd functions keep as attributes of `ctx` after their backward has run."""

    function: str
    """The class: `Square`."""
    attribute: str
    location: Location | None
    """Where its forward begins."""
    nbytes: int
    storages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GradientGraph:
    """Gradients that have a graph of their own at the end of an iteration."""

    parameters: int
    """Parameters whose `.grad` has a `grad_fn`."""
    nodes: int
    nbytes: int
    """Bytes their graphs save, parameters and their like left out."""
    storages: tuple[int, ...]
    location: Location | None
    """The line that called backward with `create_graph=True`."""


@dataclass(frozen=True, slots=True)
class Population:
    """How much there is of something that should stay as large as it is."""

    kind: str
    """`optimizer`, `module`, or `optimizers` for all that are alive and have state."""
    name: str
    """Its class."""
    number: int
    """Which of them, in order of appearance; -1 for `optimizers`."""
    groups: int
    """Parameter groups of an optimizer, submodules of a module; how many optimizers there are."""
    parameters: int
    states: int
    """Parameters for which an optimizer keeps state, in its groups or not; 0 for a module."""
    nbytes: int
    """Bytes of the parameters and, of an optimizer, of its state."""
    tick: int


@dataclass(frozen=True, slots=True)
class GraphRoot:
    """A tensor with a `grad_fn` that outlived the tick it was made in, and the graph behind it."""

    storage: int | None
    holder: Holder
    grad_fn: str
    shape: tuple[int, ...]
    nodes: int
    """Autograd nodes reachable from it, counted up to a limit."""
    saved_bytes: int
    """Bytes of saved tensors still reachable from it, parameters and their like left out."""
    location: Location | None
    """Where the tensor was made."""
    born_tick: int
    truncated: bool = False
    """The walk met its limit: `nodes` and `saved_bytes` are lower bounds."""
    op: str = ""
    """The op that made the tensor."""
    in_forward: bool = False
    """The tensor was made inside a root module's forward."""
    carried: bool = False
    """A tensor made by the same line an iteration earlier was passed to a root module in this one."""
    call: Location | None = None
    """Where the root module was called with it."""
    module: ModuleRef | None = None
    """The module that made it."""
    parameter: int | None = None
    """Storage of the parameter of the same shape that it is made from element by element, if it is."""
    written_at: Location | None = None
    """The line that last changed it in place, where that links the iterations."""


@dataclass(frozen=True, slots=True)
class HeldGroup:
    """Surviving storages that were made by one line and are kept by one holder."""

    location: Location | None
    op: str
    holder: Holder
    storages: tuple[int, ...]
    nbytes: int
    has_graph: bool
    """The tensors carry a `grad_fn`."""
    shape: tuple[int, ...] = ()
    birth_ticks: tuple[int, ...] = ()
    """Ticks in which they were made, each once."""
    graph_nodes: int = 0
    """Autograd nodes reachable from all of them, counted up to a limit."""
    graph_bytes: int = 0
    """Bytes their graphs still save for backward, parameters and their like left out."""
    graph_storages: tuple[int, ...] = ()
    """Ids of the storages behind `graph_bytes`."""


@dataclass(frozen=True, slots=True)
class Census:
    """What outlived its iteration, seen at one tick boundary of the live process."""

    tick: int
    time_ns: int
    roots: tuple[GraphRoot, ...] = ()
    groups: tuple[HeldGroup, ...] = ()
    since_tick: int = -1
    """The tick at whose end graphs were last looked at: what links two iterations links it to this one."""
    note: str = ""
    """Why the census is incomplete, or ''."""
    regions: tuple[CodeRegion, ...] = ()
    kept_graphs: tuple[KeptGraph, ...] = ()
    contexts: tuple[ContextTensor, ...] = ()
    gradients: GradientGraph | None = None
    populations: tuple[Population, ...] = ()
    """Optimizers and root modules that have changed their size, before and after, each with its tick."""


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


@dataclass(frozen=True, slots=True)
class OptimizerMade:
    """An optimizer of the run."""

    name: str
    """Its class: `AdamW`."""
    location: Location | None
    """The user's line that made it; None where that was before recording began."""
    state_bytes: int | None
    """Bytes of the tensors in its state, the most that was seen; None where no step of it was watched."""


class TensorFact(NamedTuple):
    """A tensor as it was when an exception was raised."""

    name: str
    """The variable, argument or parameter: `x`, `weight`."""
    shape: tuple[int, ...]
    device: str
    role: str
    """`argument` or `parameter` (also a buffer) of the module that raised, `local` of the user's frame,
    `root argument`, `root parameter`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The exception that ended the run, where shapes or devices of tensors did not fit."""

    kind: str
    """`shape` or `device`."""
    message: str
    """Its first line."""
    location: Location | None
    """The innermost line of the user's code."""
    call: Location | None
    """The user's line that called the root module, where one was running."""
    root: str
    """Class of the root module that ran, or ''."""
    module: ModuleRef | None
    """The innermost module that ran, with its path below the root."""
    inside: bool
    """The root knows that module: it is among `root.modules()`."""
    features: tuple[int, int] | None
    """`in_features` and `out_features` of a linear layer, `in_channels` and `out_channels` of a convolution; None where
    that module is neither."""
    before: tuple[int, ...]
    """Shape of what was flattened or reshaped before; () where that is not known."""
    input_shape: tuple[int, ...]
    """Shape of the root's first argument when it was called; () where that is not known."""
    tensors: tuple[TensorFact, ...] = ()


@dataclass(frozen=True, slots=True)
class HiddenParameters:
    """Parameters in a plain Python container of a module, which `parameters()` does not see."""

    root: str
    """Class of the root module."""
    owner: ModuleRef
    """The module that has the container as an attribute."""
    attribute: str
    container: str
    """Its type: `list`."""
    holds: str
    """Classes of what lies in it: `Linear, ReLU`."""
    location: Location | None
    """Where the owner's `__init__` begins."""
    parameters: int
    nbytes: int
    device: str
    root_device: str
    """Where the parameters are that the root does know, or ''."""
    got_gradient: bool
    """A backward reached one of them."""
    in_optimizer: bool
    """An optimizer has one of them."""
    root_in_optimizer: bool
    """An optimizer has parameters that the root knows."""


@dataclass(frozen=True, slots=True)
class ModelPart:
    """What one device has of a root module whose parameters are on several accelerators."""

    root: str
    """Class of the root module."""
    device: str
    nbytes: int
    """Bytes of its parameters there."""
    children: tuple[str, ...]
    """Names of the root's children that have parameters there, the first of them."""


@dataclass(frozen=True, slots=True)
class GatheredOutputs:
    """What calls of a `DataParallel` module on one line gathered on one device."""

    location: Location | None
    device: str
    replicas: int
    nbytes: int
    """Bytes of the outputs of one call, the most that was seen."""
    calls: int


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Integers of shape (batch, length) that a `DataLoader` handed out, and how many of them are padding."""

    location: Location | None
    """The line that asked for the batch."""
    tick: int
    """The tick that begins with it."""
    index: int
    """Which tensor of the batch."""
    rows: int
    length: int
    """As padded."""
    shortest: int
    """Length of the shortest row that was looked at, without padding."""
    longest: int
    padding_share: float
    """Of the elements of the rows that were looked at."""


@dataclass(slots=True)
class RunInfo:
    """Facts about the run as a whole."""

    script: str | None = None
    argv: tuple[str, ...] = ()
    python: str = ""
    torch: str = ""
    memprof: str = ""
    platform: str = ""
    level: str = ""
    devices: tuple[str, ...] = ()
    counter: dict[str, str] = field(default_factory=dict)
    """Device -> where its counters come from: `caching allocator`, `glibc malloc`, `resident set size`."""
    started_unix_ns: int = 0
    has_optimizer: bool = False
    """An optimizer existed, so a backward without a step is gradient accumulation."""
    exit_status: int | None = None
    """None while the run goes on, and for ever where it was killed."""
    exception: str | None = None
    finished: bool = False
    notes: tuple[str, ...] = ()
    """What capture could not do, in sentences."""
    allocator_settings: dict[str, Any] = field(default_factory=dict)
    """What torch says its CUDA caching allocator is set to; {} where that was not recorded."""
    simulated_gpu: str = ""
    """Name of the GPU that was simulated under the run; '' where CUDA was real or not used."""
    dry: bool = False
    """The simulated run computed nothing."""
    optimizers: tuple[OptimizerMade, ...] = ()
    """In order of appearance."""
    failure: Failure | None = None
    """Why the run ended, where that has to do with shapes or devices of tensors."""
    hidden_parameters: tuple[HiddenParameters, ...] = ()
    model_parts: tuple[ModelPart, ...] = ()
    """Root modules that are split over devices, an entry for each device."""
    gathered: tuple[GatheredOutputs, ...] = ()
    padded_batches: tuple[PaddedBatch, ...] = ()
    """Of the first batches of each loader that came while storages were watched."""
    extra: dict[str, Any] = field(default_factory=dict)

"""Facts about a run as a whole, as plain values.

Sizes are bytes, and an unknown value is `None`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memprof.record.events import Location, ModuleRef


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


class EqualSpan(NamedTuple):
    """How long a storage had a content that another storage of its device had as well."""

    storage: int
    device: str
    since_ns: int
    until_ns: int
    """When it was freed, or when it was last certain that nobody had written to it."""


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
    equal_storages: tuple[tuple[EqualSpan, ...], ...] = ()
    """Storages of one content, copied from one another and not written to, as far as each was watched; a tuple for each
    content."""
    extra: dict[str, Any] = field(default_factory=dict)

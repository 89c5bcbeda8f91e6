"""The model of a run: which storage lived when, what it was, and what the peak was made of.

Built from a recording by `memprof.model.build.build`; everything after it (rules, remedies, reports)
reads this and nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from memprof.model.segments import SegmentChanges
from memprof.model.snapshot import SnapshotTotals
from memprof.record.census import Census
from memprof.record.events import (
    DeviceState,
    Location,
    ModuleRef,
    OutOfMemory,
    ParameterProfile,
    Pass,
    Phase,
    Role,
    Tick,
)
from memprof.record.run_info import RunInfo


class Source(str, enum.Enum):
    """Where a figure comes from."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    ESTIMATED = "estimated"


class Category(str, enum.Enum):
    """What a storage is for, in the words of `torch.profiler`.

    Source:
        `torch/profiler/_memory_profiler.py`, class `Category`, torch 2.13.0.
    """

    PARAMETER = "PARAMETER"
    GRADIENT = "GRADIENT"
    OPTIMIZER_STATE = "OPTIMIZER_STATE"
    ACTIVATION = "ACTIVATION"
    INPUT = "INPUT"
    TEMPORARY = "TEMPORARY"
    AUTOGRAD_DETAIL = "AUTOGRAD_DETAIL"


UNCATEGORISED = "uncategorised"
"""How a storage without a category is shown."""


@dataclass(frozen=True, slots=True)
class Storage:
    """One storage from birth to death."""

    id: int
    nbytes: int
    dtype: str
    device: str
    op: str
    location: Location | None
    forward_location: Location | None
    module: ModuleRef | None
    birth_ns: int
    birth_tick: int
    birth_phase: Phase
    birth_iteration: int | None
    death_ns: int | None
    """None where it lived to the end of the recording."""
    death_tick: int | None
    death_phase: Phase | None
    death_iteration: int | None
    role: Role
    name: str
    """Name of the parameter, buffer or optimizer state, or ''."""
    category: Category | None


@dataclass(frozen=True, slots=True)
class DeviceIteration:
    """Memory of one device during one iteration, in bytes; None is unknown."""

    allocated_bytes_start: int | None
    allocated_bytes_end: int | None
    peak_allocated_bytes: int | None
    peak_phase: Phase | None
    phase_peaks: Mapping[Phase, int]
    reserved_bytes_end: int | None
    source: Source
    peak_source: Source | None = None
    """Where the peaks come from, if not from where the other figures do. A caching allocator is exact
    at phase boundaries, but what happens between them is an estimate unless it was watched."""


@dataclass(frozen=True, slots=True)
class IterationMemory:
    """One iteration and what it did to memory."""

    index: int
    kind: str
    """`train`, `evaluate` or `other`."""
    start_ns: int
    end_ns: int
    epoch: int
    tracked: bool
    complete: bool
    devices: Mapping[str, DeviceIteration]
    ticks: tuple[int, int]
    """First and last tick."""

    @property
    def duration_ns(self) -> int:
        """Wall-clock time of the iteration."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True, slots=True)
class PeakLine:
    """What one line of source held at the peak."""

    location: Location | None
    nbytes: int
    count: int
    category: Category | None
    module: ModuleRef | None


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest allocation of one device and what it was made of."""

    device: str
    allocated_bytes: int
    reserved_bytes: int | None
    source: Source
    iteration: int | None
    phase: Phase | None
    time_ns: int | None
    by_category: Mapping[str, int] | None
    """Category name (or `uncategorised`) -> bytes at the peak, largest first. Where the peak was not
    watched, these are the bytes at the highest watched moment; what the rest of `allocated_bytes` was is
    not known. None where nothing was ever watched."""
    lines: tuple[PeakLine, ...] = ()
    """The lines that held most at the peak, largest first."""
    largest: tuple[int, ...] = ()
    """Ids of the largest storages at the peak (or at the highest watched moment, as `by_category`), largest first."""


@dataclass(frozen=True, slots=True)
class CompositionPoint:
    """Bytes by category at one moment, for plots."""

    time_ns: int
    iteration: int | None
    phase: Phase
    by_category: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Trend:
    """A slope of memory over iterations of one kind, estimated robustly (Theil-Sen).

    Source:
        P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau",
        Journal of the American Statistical Association 63, 1968.
    """

    bytes_per_iteration: float
    """For each iteration of that kind: between two of them may lie others."""
    first_iteration: int
    last_iteration: int
    points: int
    """Iterations of that kind whose end is known, from the first to the last."""
    rising_share: float
    """Share of consecutive differences that are positive, 0 to 1."""
    source: Source

    @property
    def grown_bytes(self) -> float:
        """Growth from the end of the first iteration to that of the last."""
        return self.bytes_per_iteration * (self.points - 1)


@dataclass(frozen=True, slots=True)
class Account:
    """Where the memory of one CUDA device was at one moment, in bytes; None is unknown.

    What the driver counts as used is made up of this process and others; this process of what its caching
    allocator reserved and what lies outside it (context, cuBLAS, cuDNN, NCCL); what was reserved of
    blocks in use, blocks free in segments that are partly in use, free segments, and private pools.
    """

    state: DeviceState
    iteration: int | None

    @property
    def driver_used_bytes(self) -> int | None:
        """All that is used on the device, by whomever."""
        free, total = self.state.driver_free_bytes, self.state.driver_total_bytes
        return None if free is None or total is None else total - free

    @property
    def outside_allocator_bytes(self) -> int | None:
        """This process apart from its caching allocator: context and libraries."""
        process = self.state.process_bytes
        return None if process is None else max(0, process - self.state.reserved_bytes)

    @property
    def other_processes_bytes(self) -> int | None:
        """Used by other processes."""
        used, process = self.driver_used_bytes, self.state.process_bytes
        return None if used is None or process is None else max(0, used - process)

    @property
    def unattributed_bytes(self) -> int | None:
        """Used on the device beyond this process's allocator, where the driver does not say by whom."""
        used = self.driver_used_bytes
        if used is None or self.state.process_bytes is not None:
            return None
        return max(0, used - self.state.reserved_bytes)

    @property
    def awaiting_free_bytes(self) -> int:
        """Freed by the program but in use by another stream still."""
        return self.state.active_bytes - self.state.allocated_bytes

    @property
    def releasable_bytes(self) -> int:
        """Cached in segments that are wholly free: what `torch.cuda.empty_cache` would give back."""
        state = self.state
        return max(0, state.reserved_bytes - state.active_bytes - state.inactive_split_bytes)


@dataclass(frozen=True, slots=True)
class StrandedLine:
    """A line whose blocks kept segments from being free as a whole, when most was stranded in such."""

    location: Location | None
    """Where the blocks were allocated."""
    used_bytes: int
    """In its blocks there."""
    blocks: int
    stranded_bytes: int
    """Free in the segments they lie in; other lines may hold the same segments."""


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Everything known about a run."""

    run: RunInfo
    ticks: tuple[Tick, ...]
    iterations: tuple[IterationMemory, ...]
    storages: Mapping[int, Storage]
    peaks: Mapping[str, Peak]
    """Device -> its peak."""
    composition: Mapping[str, tuple[CompositionPoint, ...]]
    """Device -> composition over time where storages were watched."""
    trends: Mapping[str, Trend]
    """Device -> growth of allocated bytes at the end of train iterations, where enough were seen."""
    censuses: tuple[Census, ...]
    devices: tuple[str, ...] = field(default=())
    accounts: Mapping[str, tuple[Account, ...]] = field(default_factory=dict)
    """CUDA device -> where its memory was at the end of ticks."""
    ooms: tuple[OutOfMemory, ...] = ()
    stranded: Mapping[str, tuple[StrandedLine, ...]] = field(default_factory=dict)
    """CUDA device -> lines that held its split segments when most was stranded; where that was a lot and the
    allocator's history was recorded."""
    passes: tuple[Pass, ...] = ()
    """Forwards, backwards, steps and `zero_grad`s in order; () where they were not recorded."""
    parameters: Mapping[int, ParameterProfile] = field(default_factory=dict)
    """By `Pass.gradients`: parameters after a backward."""
    last_uses: Mapping[int, int] = field(default_factory=dict)
    """Storage -> when an op was last given it, in ns; of storages from 64 KiB, while they were watched."""
    segments: Mapping[str, SegmentChanges] = field(default_factory=dict)
    """CUDA device -> its segments as they came and went, where the allocator's history was recorded as a whole."""
    snapshot: tuple[SnapshotTotals, ...] = ()
    """Devices as of a PyTorch snapshot; () for a recording of a run."""

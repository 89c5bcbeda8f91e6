"""The model of a run: which storage lived when, what it was, and what the peak was made of.

Built from a recording by `memprof.model.build.build`; everything after it (rules, remedies, reports)
reads this and nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from memprof.record.events import Census, Location, ModuleRef, Phase, Role, RunInfo, Tick


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
    watched, these are the bytes at the highest watched moment, and the difference to `allocated_bytes`
    counts as `uncategorised`. None where nothing was ever watched."""
    lines: tuple[PeakLine, ...] = ()
    """The lines that held most at the peak, largest first."""


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
    first_iteration: int
    last_iteration: int
    points: int
    rising_share: float
    """Share of consecutive differences that are positive, 0 to 1."""
    source: Source


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

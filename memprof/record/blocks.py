"""What a caching allocator did and holds, as plain values: no torch, no behaviour.

One shape for two sources: the allocator history a recording carries (level `blocks`) and PyTorch's own
snapshot pickles. Names are PyTorch's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memprof.record.events import Location, ModuleRef

DEFAULT_POOL = (0, 0)
"""Pool id of everything outside CUDA graphs and `torch.cuda.MemPool`."""


class BlockAction(enum.IntEnum):
    """What a trace entry says; names in lower case are PyTorch's.

    Source:
        `torch/cuda/memory.py`, `memory_snapshot`, torch 2.14.1.
    """

    ALLOC = 0
    FREE_REQUESTED = 1
    FREE_COMPLETED = 2
    SEGMENT_ALLOC = 3
    SEGMENT_FREE = 4
    SEGMENT_MAP = 5
    SEGMENT_UNMAP = 6
    OOM = 7
    SNAPSHOT = 8
    OTHER = 9
    """An action this memprof does not know; passed over."""


class BlockState(enum.IntEnum):
    """State of a block in a segment."""

    INACTIVE = 0
    ACTIVE_ALLOCATED = 1
    ACTIVE_AWAITING_FREE = 2
    """Freed by the program, in use by another stream still (`active_pending_free` in torch 2.14)."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a segment at the time of a snapshot."""

    address: int
    nbytes: int
    """Rounded size: what `memory_allocated` counts."""
    requested_bytes: int
    state: BlockState
    stack: int
    """Index into `AllocatorHistory.stacks`, -1 where no stack is known."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory obtained from the driver in one piece, and how it is divided; blocks in order of address."""

    address: int
    nbytes: int
    stream: int
    large: bool
    """From the pool for requests above 1 MiB."""
    pool_id: tuple[int, int]
    """`(0, 0)` default, `(n, 0)` a CUDA graph's, `(0, n)` a `torch.cuda.MemPool`."""
    expandable: bool
    blocks: tuple[Block, ...]
    stack: int = -1


IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class BlockEvents:
    """Trace entries of one device, oldest first, one array a column, all of equal length."""

    action: npt.NDArray[np.integer]
    """Values of `BlockAction`."""
    time_ns: IntArray
    """Unix time; -1 where the trace has none."""
    address: IntArray
    """-1 for an OOM, which has none."""
    nbytes: IntArray
    """Requested bytes (not rounded) of blocks, driver bytes of segments, rounded request of an OOM."""
    stream: IntArray
    stack: npt.NDArray[np.integer]
    """Index into `AllocatorHistory.stacks`, -1 where no stack is known."""
    device_free: Mapping[int, int] = field(default_factory=dict)
    """Row of an OOM -> bytes the driver said were free."""
    table: IntArray | None = None
    """Shape (entries, `schema.BLOCK_COLUMNS`), where the columns are views of such; its devices are 0."""

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.action)


@dataclass(frozen=True, slots=True, eq=False)
class DeviceHistory:
    """One device of an allocator history."""

    device: str
    """`cuda:0`, or `host` for pinned host memory."""
    segments: tuple[Segment, ...]
    """As of the end of the history, in order of address."""
    events: BlockEvents
    """What led there; may be empty, and may begin long after the process did."""


@dataclass(frozen=True, slots=True, eq=False)
class AllocatorHistory:
    """Everything a snapshot says."""

    devices: tuple[DeviceHistory, ...]
    stacks: Sequence[tuple[Location, ...]]
    """Call stacks, innermost frame first."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """`allocator_settings` of the snapshot; {} where it has none."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockLog:
    """What caching allocators did during a recorded run, with the tick of each event."""

    starts: tuple[tuple[int, IntArray], ...]
    """A tick, and what all devices held when it began: shape (blocks, `schema.SEGMENT_COLUMNS`). A second
    entry means that events between the two were lost."""
    events: IntArray
    """Shape (events, `schema.BLOCK_COLUMNS`), in the order the allocator wrote them."""
    ticks: IntArray
    """Tick of each event."""
    devices: Mapping[int, str]
    """Names behind the ids of the `device` column."""
    stacks: Mapping[int, tuple[Location, ...]]
    """Call stacks by id, innermost line first."""
    user_lines: Mapping[int, Location | None]
    """The user's innermost line of each stack."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """`allocator_settings` as torch reported them when recording began."""
    modules: Mapping[int, ModuleRef] = field(default_factory=dict)
    """The module that blocks of a stack were made for, where it is known."""
    forward_lines: Mapping[int, Location] = field(default_factory=dict)
    """The line of the forward whose gradient blocks of a stack were made for, where it is known."""

"""What the model needs from a recording, whatever file or memory it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from memprof.record.blocks import AllocatorHistory, BlockLog
from memprof.record.census import Census
from memprof.record.events import (
    Birth,
    Death,
    DeviceState,
    OutOfMemory,
    ParameterProfile,
    Pass,
    RoleFact,
    Tick,
)
from memprof.record.run_info import RunInfo


class RecordingView(Protocol):
    """A recording as a stream of events.

    A recording cut off at any point (`kill -9`) is still a recording: births without deaths, and events
    of a tick that was never finished, are normal.
    """

    @property
    def run(self) -> RunInfo:
        """Facts about the run."""

    @property
    def ticks(self) -> Sequence[Tick]:
        """Finished ticks in order of time, with ascending indices."""

    @property
    def censuses(self) -> Sequence[Census]:
        """What outlived its iteration, in order of time."""

    @property
    def states(self) -> Sequence[DeviceState]:
        """CUDA devices as they were when ticks ended, in order of time."""

    @property
    def ooms(self) -> Sequence[OutOfMemory]:
        """Out-of-memory errors in order of time."""

    @property
    def passes(self) -> Sequence[Pass]:
        """Forwards, backwards, steps and `zero_grad`s in order; empty where they were not recorded."""

    @property
    def parameters(self) -> Sequence[ParameterProfile]:
        """What the parameters of root modules were like after watched backwards."""

    def last_uses(self) -> Mapping[int, int]:
        """Storage -> when an op was last given it, in ns; of large storages that were watched."""

    @property
    def history(self) -> AllocatorHistory | None:
        """The PyTorch snapshot behind the view, or None for a recording of a run."""

    def block_log(self) -> BlockLog | None:
        """What the caching allocators did, or None where that was not recorded."""

    def births(self) -> Iterator[Birth]:
        """Births of storages in the order they were written."""

    def deaths(self) -> Iterator[Death]:
        """Deaths of storages in the order they were written."""

    def roles(self) -> Iterator[RoleFact]:
        """What storages were found to be."""

"""The counters of one device, read at phase boundaries, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memprof.model.lifetimes import BoolArray, IntArray
from memprof.model.schedule import Schedule
from memprof.record.events import Phase, Sample
from memprof.record.run_info import RunInfo

UNKNOWN = -1

_PROCESS_COUNTERS = frozenset({"glibc malloc", "resident set size"})
"""Counters that see the whole process, not only tensors."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Samples of one device in order of time."""

    slot: IntArray
    """Slot of the tick each was taken in."""
    tick: IntArray
    time_ns: IntArray
    phase: IntArray
    ends: BoolArray
    allocated: IntArray
    reserved: IntArray
    """`UNKNOWN` where the device does not tell, as is `peak`."""
    peak: IntArray

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.slot)


def read_samples(schedule: Schedule) -> dict[str, Samples]:
    """Sort the samples of all ticks by device.

    Args:
        schedule: The ticks.

    Returns:
        Device -> its samples, for every device that has any.
    """
    found: dict[str, list[tuple[int, int, Sample]]] = {}
    for slot, tick in enumerate(schedule.ticks, start=1):
        for sample in tick.samples:
            found.setdefault(sample.device, []).append((slot, tick.index, sample))
    return {device: _columns(rows) for device, rows in found.items()}


def no_samples() -> Samples:
    """Samples of a device that has none."""
    return _columns([])


def counts_process(run: RunInfo, device: str) -> bool:
    """Whether a device's counter sees the whole process and so needs calibration."""
    counter = run.counter.get(device)
    if counter is None:
        return device.partition(":")[0] == "cpu"
    return counter in _PROCESS_COUNTERS


def _columns(rows: list[tuple[int, int, Sample]]) -> Samples:
    rows.sort(key=lambda row: (row[0], row[2].time_ns))
    samples = [sample for _, _, sample in rows]

    def column(values: list[int]) -> IntArray:
        return np.array(values, np.int64)

    return Samples(
        slot=column([slot for slot, _, _ in rows]),
        tick=column([tick for _, tick, _ in rows]),
        time_ns=column([sample.time_ns for sample in samples]),
        phase=column([int(sample.phase) for sample in samples]),
        ends=np.array([sample.ends for sample in samples], np.bool_),
        allocated=column([sample.allocated_bytes for sample in samples]),
        reserved=column([_known(sample.reserved_bytes) for sample in samples]),
        peak=column([_known(sample.peak_allocated_bytes) for sample in samples]),
    )


def _known(nbytes: int | None) -> int:
    return UNKNOWN if nbytes is None else nbytes


def phase_between(samples: Samples, later: int) -> Phase:
    """Phase of the time between sample `later - 1` and sample `later`."""
    if samples.ends[later]:
        return Phase(int(samples.phase[later]))
    if later and not samples.ends[later - 1] and samples.slot[later - 1] == samples.slot[later]:
        return Phase(int(samples.phase[later - 1]))
    return Phase.OTHER

"""What several rules ask of a model: iterations of ticks, the user's files, severities, words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from memprof.detect.finding import Finding, RelatedLocation, Severity
from memprof.detect.source import with_imports
from memprof.model.growth import line_growth
from memprof.model.memory import MemoryModel, Peak
from memprof.record.census import Holder
from memprof.record.events import Location
from memprof.units import format_bytes

KIB, MIB = 1 << 10, 1 << 20

MIN_ITERATIONS = 3
"""Fewer iterations than this do not show growth."""

_ERROR_GROWTH = 1 * MIB
_ERROR_SHARE_OF_PEAK = 0.01
_WARNING_GROWTH = 1 * KIB


def iteration_of_ticks(model: MemoryModel) -> Mapping[int, int]:
    """Tick -> index of its iteration."""
    return {
        tick: iteration.index
        for iteration in model.iterations
        for tick in range(iteration.ticks[0], iteration.ticks[1] + 1)
    }


def user_files(model: MemoryModel) -> list[str]:
    """Files in which the run's root modules were called and its tensors were held, and the modules these import."""
    found = [tick.call.file for tick in model.ticks if tick.call is not None]
    for census in model.censuses:
        found += [group.location.file for group in census.groups if group.location is not None]
        found += [root.location.file for root in census.roots if root.location is not None]
    if model.run.script:
        found.append(model.run.script)
    return with_imports(list(dict.fromkeys(found)))


def line_growing(model: MemoryModel, location: Location | None) -> bool:
    """Whether what a line leaves alive rose over the watched iterations."""
    return any(line.rising for line in line_growth(model) if line.location == location)


def main_peak(model: MemoryModel, device: str | None = None) -> Peak | None:
    """The peak of a device, None where it is not known; without a device the largest of all."""
    if device is not None:
        return model.peaks.get(device)
    return max(model.peaks.values(), key=lambda peak: (peak.device != "cpu", peak.allocated_bytes), default=None)


def ended_out_of_memory(model: MemoryModel) -> bool:
    """Whether the exception that ended the run says that memory ran out."""
    return (model.run.exception or "").startswith(("OutOfMemoryError", "torch.OutOfMemoryError"))


def growth_severity(model: MemoryModel, device: str, bytes_per_iteration: float) -> Severity:
    """How bad a growth is: by its bytes, and by its share of the peak.

    Args:
        model: The run.
        device: Where it grows.
        bytes_per_iteration: Device memory added by one iteration.

    Returns:
        Error from 1 MiB or 1 % of the peak an iteration, warning from 1 KiB, info below: autograd
        nodes alone cost host memory and time, not device memory.
    """
    peak = main_peak(model, device)
    share = bytes_per_iteration / peak.allocated_bytes if peak is not None and peak.allocated_bytes else 0.0
    if bytes_per_iteration >= _ERROR_GROWTH or (share >= _ERROR_SHARE_OF_PEAK and bytes_per_iteration >= 16 * KIB):
        return Severity.ERROR
    return Severity.WARNING if bytes_per_iteration >= _WARNING_GROWTH else Severity.INFO


def share_severity(nbytes: int, peak: Peak | None) -> Severity:
    """How bad a waste is, by its share of the peak: error from a half, warning from 5 % or 1 MiB."""
    if peak is None or not peak.allocated_bytes:
        return Severity.WARNING
    share = nbytes / peak.allocated_bytes
    return Severity.ERROR if share >= 0.5 else Severity.WARNING if share >= 0.05 or nbytes >= MIB else Severity.INFO


def largest_of_each_line(findings: Iterable[Finding]) -> Iterable[Finding]:
    """Of findings at one line, the one about most bytes."""
    best: dict[Location | None, Finding] = {}
    for finding in findings:
        known = best.get(finding.location)
        if known is None or (finding.bytes or 0) > (known.bytes or 0):
            best[finding.location] = finding
    return best.values()


def place(location: Location | None) -> str:
    """`train.py:41`, or `an unknown line`."""
    return "an unknown line" if location is None else f"{os.path.basename(location.file)}:{location.line}"


def holder_text(holder: Holder, stored: Location | None) -> str:
    """The holder with the line that stores: "list `history` in `train()` train.py:41, 3 tensors"."""
    if stored is None:
        return holder.text
    text, comma, tail = holder.text.partition(", ") if holder.size is not None else (holder.text, "", "")
    return f"{text} {place(stored)}{comma}{tail}"


def size(nbytes: float) -> str:
    """A size for a message."""
    return format_bytes(nbytes)


def counted(count: int, noun: str) -> str:
    """`1 iteration`, `3 iterations`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def related(made: Location | None, stored: Location | None) -> tuple[RelatedLocation, ...]:
    """The line that made tensors and the one that stores them, as far as they are known."""
    pairs = (("allocated", made), ("held", stored))
    return tuple(RelatedLocation(role, where) for role, where in pairs if where is not None)


def device_of(model: MemoryModel, storage: int | None) -> str:
    """Device of a storage; of an unknown one the run's first device."""
    found = model.storages.get(storage) if storage is not None else None
    if found is not None:
        return found.device
    return model.devices[0] if model.devices else "cpu"

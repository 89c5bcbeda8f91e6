"""Two runs side by side: whether a change helped, and what it did to the findings."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath

from memprof.advise.diagnosis import Diagnosis
from memprof.detect.finding import Finding
from memprof.model.iterations import usual_duration_ns
from memprof.model.memory import MemoryModel, Source, Trend
from memprof.record.iterations import TRAIN


class Status(Enum):
    """What became of a finding."""

    GONE = "gone"
    NEW = "new"
    STILL = "still there"


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """What one run needed of one device; an unknown figure is None."""

    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None
    peak_source: Source | None
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """A device in the run before and in the run after."""

    device: str
    before: DeviceFigures
    after: DeviceFigures

    @property
    def peak_increase(self) -> float | None:
        """By which share of itself the peak of allocated memory rose; negative where it fell, None where unknown."""
        before, after = self.before.peak_allocated_bytes, self.after.peak_allocated_bytes
        return None if not before or after is None else after / before - 1


@dataclass(frozen=True, slots=True)
class FindingChange:
    """A finding of one run, or of both."""

    status: Status
    before: Finding | None
    after: Finding | None

    @property
    def finding(self) -> Finding:
        """The finding as it is now, or as it was."""
        found = self.after or self.before
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from one run to another."""

    devices: tuple[DeviceChange, ...]
    findings: tuple[FindingChange, ...]
    """Those that are gone, then new ones, then those still there."""
    iteration_ns: tuple[int | None, int | None]
    """Median time of a training iteration before and after, of those in which storages were not watched, if any."""
    differences: tuple[str, ...]
    """Why the runs are not quite of one kind; empty where nothing stands against comparing them."""


def compare(before: Diagnosis, after: Diagnosis) -> Comparison:
    """Put two runs side by side.

    Args:
        before: The first run.
        after: The second run.

    Returns:
        Figures of every device, and what became of each finding. A finding is the same if its rule, file and function
        are: lines move when a file is edited.
    """
    devices = dict.fromkeys((*before.model.peaks, *after.model.peaks))
    return Comparison(
        devices=tuple(
            DeviceChange(device, _figures(before.model, device), _figures(after.model, device)) for device in devices
        ),
        findings=tuple(_findings(before, after)),
        iteration_ns=(_iteration_ns(before.model), _iteration_ns(after.model)),
        differences=tuple(_differences(before.model, after.model)),
    )


def _figures(model: MemoryModel, device: str) -> DeviceFigures:
    peak = model.peaks.get(device)
    return DeviceFigures(
        peak_allocated_bytes=None if peak is None else peak.allocated_bytes,
        peak_reserved_bytes=None if peak is None else peak.reserved_bytes,
        peak_source=None if peak is None else peak.source,
        trend=model.trends.get(device),
    )


def _iteration_ns(model: MemoryModel) -> int | None:
    return usual_duration_ns([item for item in model.iterations if item.kind == TRAIN])


def _findings(before: Diagnosis, after: Diagnosis) -> list[FindingChange]:
    of_problem: dict[tuple[str, str, str, str], tuple[list[Finding], list[Finding]]] = defaultdict(lambda: ([], []))
    for side, diagnosis in enumerate((before, after)):
        for finding in diagnosis.findings:
            of_problem[_problem(finding)][side].append(finding)
    found = []
    for was, now in of_problem.values():
        for findings in (was, now):
            findings.sort(key=lambda item: item.location.line if item.location is not None else 0)
        both = min(len(was), len(now))
        found += [FindingChange(Status.STILL, *pair) for pair in zip(was, now, strict=False)]
        found += [FindingChange(Status.GONE, finding, None) for finding in was[both:]]
        found += [FindingChange(Status.NEW, None, finding) for finding in now[both:]]
    order = list(Status)
    return sorted(found, key=lambda item: (order.index(item.status), -item.finding.severity.rank, item.finding.code))


def _problem(finding: Finding) -> tuple[str, str, str, str]:
    where = finding.location
    place = ("", "") if where is None else (PurePath(where.file).name, where.function)
    return finding.code, finding.device, *place


def _differences(before: MemoryModel, after: MemoryModel) -> list[str]:
    said = []
    for what, was, now in (
        ("torch", before.run.torch, after.run.torch),
        ("level", before.run.level, after.run.level),
        ("simulated GPU", before.run.simulated_gpu, after.run.simulated_gpu),
        ("iterations", len(before.iterations), len(after.iterations)),
    ):
        if was != now:
            said.append(f"{what}: {was or 'none'} before, {now or 'none'} after")
    return said


__all__ = ["Comparison", "DeviceChange", "DeviceFigures", "FindingChange", "Status", "compare"]

"""Memory limits of a test: how they are written, and what is said when one is exceeded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from memprof._errors import UsageError
from memprof.detect.finding import Finding, Kind, Severity
from memprof.model.simulated import source_of
from memprof.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from memprof.advise.diagnosis import Diagnosis
    from memprof.model.memory import MemoryModel, Storage
    from memprof.record.events import Location

_MOST_LINES = 5
MOST_SEARCHED = 16
"""Storages whose holders are looked for."""


@dataclass(frozen=True, slots=True)
class LeakLimit:
    """What a test may leave behind each time it runs.

    Attributes:
        nbytes: Allowed growth for each repetition, in bytes.
        warmup: Repetitions that may leave something behind (caches, lazily made state).
        repeat: Repetitions that are looked at.
    """

    nbytes: int
    warmup: int
    repeat: int


@dataclass(frozen=True, slots=True)
class PeakLimit:
    """The most memory a test may use at one time.

    Attributes:
        nbytes: The limit in bytes; None where it is only to fit on the simulated GPU.
        device: None is the device that uses most.
        simulated: Name of the GPU to simulate under the test; '' for none.
    """

    nbytes: int | None
    device: str | None
    simulated: str = ""


@dataclass(frozen=True, slots=True)
class RulesLimit:
    """Findings of this severity or a higher one fail the test, unless their code is ignored."""

    fail_on: Severity
    ignore: frozenset[str]


def leak_limit(limit: str | int = "0 B", *, warmup: int = 1, repeat: int = 3) -> LeakLimit:
    """Read `@pytest.mark.memprof_leaks(...)`.

    Raises:
        UsageError: The limit is not a size, or a number of repetitions is too small.
    """
    if warmup < 0:
        raise UsageError(f"warmup is {warmup!r}; write a whole number from 0")
    if repeat < 2:
        raise UsageError(f"repeat is {repeat!r}; growth needs at least 2 repetitions")
    return LeakLimit(parse_bytes(str(limit)), warmup, repeat)


def peak_limit(limit: str | int | None = None, *, device: str | None = None, simulated: str = "") -> PeakLimit:
    """Read `@pytest.mark.memprof_peak(...)`.

    Raises:
        UsageError: The limit is not a size, there is neither a limit nor a GPU, or no GPU of that name is known.
    """
    if limit is None and not simulated:
        raise UsageError(
            'write a limit, as in memprof_peak("512 MiB"), or a GPU it must fit, as in simulated="A100-40GB"'
        )
    if simulated:
        from memprof.simulate.gpus import find_gpus

        find_gpus(simulated)
        device = device or "cuda:0"
    return PeakLimit(
        None if limit is None else parse_bytes(str(limit)), "cuda:0" if device == "cuda" else device, simulated
    )


def rules_limit(*, ignore: Sequence[str] = (), fail_on: str = "warning") -> RulesLimit:
    """Read `@pytest.mark.memprof_rules(...)`.

    Raises:
        UsageError: A code does not exist, or `fail_on` is not a severity.
    """
    from memprof.detect import rule_of

    if isinstance(ignore, str):
        raise UsageError(f"ignore is {ignore!r}; write a list of codes, as in ignore=[{ignore!r}]")
    rules = {code: rule_of(code) for code in ignore}
    unknown = [code for code, rule in rules.items() if rule is None]
    if unknown:
        raise UsageError(f"ignore names no rule: {', '.join(unknown)}; `memprof explain` lists them")
    return RulesLimit(severity(fail_on), frozenset(rule.code for rule in rules.values() if rule is not None))


def severity(name: str) -> Severity:
    """Read a severity.

    Raises:
        UsageError: There is none of this name.
    """
    try:
        return Severity(name)
    except ValueError:
        known = ", ".join(item.value for item in Severity)
        raise UsageError(f"{name!r} is not a severity; write one of {known}") from None


def peak_bytes(model: MemoryModel) -> dict[str, int]:
    """Peak of each device during a test, in bytes.

    On the CPU it is that of tensor storages: counters of the heap hold Python's own objects as well.

    Args:
        model: A test watched at level `tensors`.

    Returns:
        Device -> bytes; devices that held nothing are left out.
    """
    changes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for storage in model.storages.values():
        changes[storage.device].append((storage.birth_ns, storage.nbytes))
        if storage.death_ns is not None:
            changes[storage.device].append((storage.death_ns, -storage.nbytes))
    peaks = {}
    for device, steps in changes.items():
        now = most = 0
        for _, nbytes in sorted(steps):
            now += nbytes
            most = max(most, now)
        peaks[device] = most
    for device, peak in model.peaks.items():
        if device != "cpu":
            peaks[device] = peak.allocated_bytes
    return {device: nbytes for device, nbytes in peaks.items() if nbytes}


def exceeded_peak(limit: PeakLimit, diagnosis: Diagnosis) -> str | None:
    """What to say about a test whose peak is above its limit, or None."""
    peaks = peak_bytes(diagnosis.model)
    device = limit.device or max(peaks, key=peaks.__getitem__, default="cpu")
    used = peaks.get(device, 0)
    if limit.simulated and not used:
        return (
            f"memprof: nothing was allocated on {device} of the simulated {limit.simulated}, so its peak says nothing; "
            'let the test put its model and data on device "cuda"'
        )
    if limit.nbytes is None or used <= limit.nbytes:
        return None
    over = format_bytes(used - limit.nbytes)
    lines = [
        (
            f"memprof: peak memory {format_bytes(used)} on {device} ({source_of(diagnosis.model, device).value}) is "
            f"{over} above the limit of {format_bytes(limit.nbytes)}"
        ),
    ]
    peak = diagnosis.model.peaks.get(device)
    if peak is not None and peak.lines:
        lines.append("held at the peak:")
        lines += [
            f"  {format_bytes(line.nbytes)} in {_counted(line.count, 'tensor')} made at {_place(line.location)}"
            for line in peak.lines[:_MOST_LINES]
        ]
    return "\n".join([*lines, *_next_steps(diagnosis.findings)])


def broken_rules(limit: RulesLimit, findings: Sequence[Finding]) -> str | None:
    """What to say about findings that fail a test, or None."""
    failing = [
        finding
        for finding in findings
        if finding.severity.rank >= limit.fail_on.rank and finding.code not in limit.ignore
    ]
    if not failing:
        return None
    return "\n".join([f"memprof: {_counted(len(failing), 'finding')}", *_next_steps(failing)])


def survivors(
    limit: LeakLimit, model: MemoryModel, ends_ns: Sequence[int], *, own: Collection[int] = ()
) -> list[list[Storage]]:
    """What each repetition of a test left alive.

    Args:
        limit: The limit.
        model: Of all repetitions.
        ends_ns: When the first began, then when each ended, as `time.perf_counter_ns` says.
        own: Ids of storages that go with the test, because its fixtures or its instance hold them.

    Returns:
        A list for each repetition that counts: not for those of the warm-up, nor for the last, whose remains may be
        what the next would replace.
    """
    return [
        [
            storage
            for storage in model.storages.values()
            if storage.death_ns is None and start <= storage.birth_ns < end and storage.id not in own
        ]
        for start, end in list(pairwise(ends_ns))[limit.warmup : -1]
    ]


def leaked(
    limit: LeakLimit,
    diagnosis: Diagnosis,
    left: Sequence[Sequence[Storage]],
    *,
    own: Collection[int] = (),
    holders: Mapping[int, str] | None = None,
) -> str | None:
    """What to say about a test that leaves more behind each time it runs, or None.

    Args:
        limit: The limit.
        diagnosis: Of all repetitions.
        left: What survived of each, from `survivors`.
        own: As there.
        holders: Storage -> who holds it, as far as that is known.

    Returns:
        What survived, how much, which line made it and who holds it.
    """
    growth = min((sum(storage.nbytes for storage in storages) for storages in left), default=0)
    leaks = [finding for finding in diagnosis.findings if finding.kind is Kind.LEAK and not _about(finding, own)]
    times = f"each of the {limit.repeat} repetitions after {_counted(limit.warmup, 'repetition')} of warm-up"
    if growth > limit.nbytes:
        allowed = f" (limit {format_bytes(limit.nbytes)})" if limit.nbytes else ""
        source = source_of(diagnosis.model, left[-1][0].device).value
        text = [f"memprof: {format_bytes(growth)} of tensors survive {times}{allowed}, {source}"]
        text += _by_line(left[-1], holders or {})
    elif leaks and not limit.nbytes:
        text = [f"memprof: autograd graph grows with {times}, measured"]
    else:
        return None
    steps = _next_steps(leaks)
    return "\n".join(
        [*text, *(steps or ["remedy: drop the reference at the end of the test, or keep a copy of a number"])]
    )


def _about(finding: Finding, storages: Collection[int]) -> bool:
    """Whether a finding is about these storages and no others."""
    freed = {storage for remedy in finding.remedies for storage in remedy.frees}
    return bool(freed) and freed <= set(storages)


def _by_line(storages: Sequence[Storage], holders: Mapping[int, str]) -> Iterator[str]:
    lines: dict[Location | None, list[Storage]] = defaultdict(list)
    for storage in storages:
        lines[storage.location].append(storage)
    for location, made in sorted(lines.items(), key=lambda item: -sum(s.nbytes for s in item[1]))[:_MOST_LINES]:
        held = next((holders[storage.id] for storage in made if storage.id in holders), "")
        nbytes = format_bytes(sum(storage.nbytes for storage in made))
        holder = f", held by {held}" if held else ""
        yield f"  {nbytes} in {_counted(len(made), 'tensor')} made at {_place(location)}{holder}"


def _next_steps(findings: Sequence[Finding]) -> list[str]:
    text = []
    for finding in findings:
        text.append(f"{finding.code} {finding.severity.value}: {finding.message}")
        text += [f"  remedy: {remedy.text}" for remedy in finding.remedies[:1]]
    return text


def _place(location: Location | None) -> str:
    return "an unknown line" if location is None else f"{Path(location.file).name}:{location.line}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"

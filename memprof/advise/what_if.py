"""A recorded run lived through again: under other allocator settings, or on another GPU.

The program is taken to ask for the same at the same moments; what changes is where the caching allocator finds it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from memprof._errors import UsageError
from memprof.advise.device_runs import DeviceRun, device_runs
from memprof.model.memory import Source
from memprof.model.view import RecordingView
from memprof.record.blocks import (
    BlockAction,
)
from memprof.record.events import Location
from memprof.simulate.block_replay import BlockReplay
from memprof.simulate.gpus import Gpu
from memprof.simulate.replay import ReplayReport, replay
from memprof.simulate.settings import AllocatorSettings, known_keys

_UNBOUNDED = 1 << 45
"""Memory of the device where it is not known: 32 TiB."""

CANDIDATES = (
    "expandable_segments:True",
    "max_split_size_mb:512",
    "max_split_size_mb:128",
    "max_split_size_mb:64",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:8",
    "max_split_size_mb:128,roundup_power2_divisions:8",
    "garbage_collection_threshold:0.8,per_process_memory_fraction:0.95",
)
"""Settings that are worth trying, as for `PYTORCH_ALLOC_CONF`."""

_VERSION = re.compile(r"([0-9]+)\.([0-9]+)")

WORTH_SHARE = 0.02
"""A setting is recommended from this part of the reserved memory on ..."""
WORTH_BYTES = 16 << 20
"""... if it is this much as well."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one device needed, or would have needed; sizes in bytes, None is unknown."""

    label: str
    """`as recorded`, `replayed`, or the settings tried."""
    source: Source
    peak_allocated_bytes: int
    peak_reserved_bytes: int | None
    device_allocs: int | None
    """`cudaMalloc` calls, or mappings of pages."""
    alloc_retries: int | None
    """Times the whole cache was given back because memory had run out."""
    out_of_memory: str = ""
    """What was missing where memory ran out and the replay ended; '' where all went well."""
    out_of_memory_at: Location | None = None
    """The user's line that asked for it."""
    out_of_memory_iteration: int | None = None

    @property
    def fragmentation(self) -> float | None:
        """Part of the highest reserved memory beyond the highest allocated memory; 0 to 1."""
        if not self.peak_reserved_bytes:
            return None
        return max(0.0, 1 - self.peak_allocated_bytes / self.peak_reserved_bytes)

    @property
    def fits(self) -> bool:
        """Whether memory sufficed."""
        return not self.out_of_memory


@dataclass(frozen=True, slots=True)
class DeviceWhatIf:
    """One device: how it was, and how it would have been."""

    device: str
    total_bytes: int | None
    """Memory of the device it was replayed on; None where that is not known and memory was taken as endless."""
    outcomes: tuple[Outcome, ...]
    """As recorded (where reserved memory was recorded), replayed as it was set, then each setting."""
    notes: tuple[str, ...] = ()

    @property
    def baseline(self) -> Outcome:
        """The replay under the recorded settings: what others are compared with, model against model."""
        return next(outcome for outcome in self.outcomes if outcome.source is not Source.MEASURED)

    @property
    def best(self) -> Outcome | None:
        """The setting that reserves least, if it is worth setting; None where the recorded ones do as well."""
        base = self.baseline
        fitting = [outcome for outcome in self.outcomes if outcome is not base and _is_trial(outcome) and outcome.fits]
        if not fitting:
            return None
        best = min(fitting, key=_rank)
        if not base.fits:
            return best
        saved = self.saves_bytes(best) or 0
        return best if saved >= max(WORTH_BYTES, WORTH_SHARE * (base.peak_reserved_bytes or 0)) else None

    def saves_bytes(self, outcome: Outcome) -> int | None:
        """Reserved memory that an outcome spares the baseline; None where one of them ran out of memory."""
        base = self.baseline
        if not (base.fits and outcome.fits) or base.peak_reserved_bytes is None or outcome.peak_reserved_bytes is None:
            return None
        return base.peak_reserved_bytes - outcome.peak_reserved_bytes


def candidates(recording: RecordingView) -> tuple[str, ...]:
    """Settings that are worth trying for a run: those of `CANDIDATES` that its torch knows."""
    known = known_keys(_known_version(recording))
    return tuple(text for text in CANDIDATES if known.issuperset(part.partition(":")[0] for part in text.split(",")))


def what_if(
    recording: RecordingView,
    settings: Sequence[str] = (),
    *,
    gpu: Gpu | None = None,
    device: str | None = None,
) -> tuple[DeviceWhatIf, ...]:
    """Replay what a run allocated and freed.

    Args:
        recording: With the allocator's history (level `blocks` or `tensors` on CUDA, or a PyTorch snapshot with a
            trace), or with every storage (level `tensors`).
        settings: Each one a value of `PYTORCH_ALLOC_CONF`.
        gpu: To replay on; None is the recorded device.
        device: Replay only this one.

    Returns:
        One entry a device.

    Raises:
        UsageError: The recording does not hold what was allocated, or a setting is not known to the run's torch.
    """
    version = _known_version(recording)
    trials = [(text, AllocatorSettings.parse(text, torch_version=version)) for text in settings]
    runs = list(device_runs(recording))
    if not runs:
        raise UsageError(
            f"{getattr(recording, 'path', None) or 'the recording'} does not say what was allocated when: record with "
            "--level blocks or tensors, or give a PyTorch snapshot with a trace"
        )
    return tuple(_device(recording, run, trials, gpu) for run in runs if device in (None, run.device))


def _device(
    recording: RecordingView, run: DeviceRun, trials: Sequence[tuple[str, AllocatorSettings]], gpu: Gpu | None
) -> DeviceWhatIf:
    recorded = AllocatorSettings() if run.log is None else AllocatorSettings.from_snapshot(run.log.settings)
    total_bytes, taken_bytes = _memory(recording, run.device, gpu)
    version = _version(recording)

    def tried(settings: AllocatorSettings) -> ReplayReport:
        return replay(
            run.events,
            settings,
            total_bytes or _UNBOUNDED,
            taken_bytes=taken_bytes,
            segments=run.before,
            torch_version=version,
            empty_cache=run.empties_cache,
        )

    outcomes = [] if run.log is None else [_as_recorded(recording, run, recorded)]
    outcomes.append(_simulated(recording, run, "replayed", tried(recorded)))
    outcomes += [_simulated(recording, run, label, tried(settings)) for label, settings in trials]
    return DeviceWhatIf(run.device, total_bytes, tuple(outcomes), run.notes)


def _as_recorded(recording: RecordingView, run: DeviceRun, settings: AllocatorSettings) -> Outcome:
    follow = BlockReplay(settings, run.before)
    before_bytes = follow.allocated_bytes, follow.reserved_bytes
    usage = follow.follow(run.events)
    actions = run.events.action
    grown = (actions == BlockAction.SEGMENT_ALLOC) | (actions == BlockAction.SEGMENT_MAP)
    peak_reserved: int | None = max(before_bytes[1], int(usage.reserved_bytes.max()))
    if len(run.before) > len(run.segments):  # then only what is reserved at the end is known
        end_bytes = _reserved_at_the_end(recording, run.device)
        unknown_bytes = None if end_bytes is None else end_bytes - int(usage.reserved_bytes[-1])
        peak_reserved = None if unknown_bytes is None or peak_reserved is None else peak_reserved + unknown_bytes
    elif not peak_reserved:
        peak_reserved = None
    return Outcome(
        label="as recorded",
        source=Source.MEASURED,
        peak_allocated_bytes=max(before_bytes[0], int(usage.allocated_bytes.max())),
        peak_reserved_bytes=peak_reserved,
        device_allocs=int(grown.sum()),
        alloc_retries=None,
        out_of_memory="the run met an out-of-memory error" if bool((actions == BlockAction.OOM).any()) else "",
    )


def _reserved_at_the_end(recording: RecordingView, device: str) -> int | None:
    """Bytes in segments when a snapshot was taken; None for a recording that is none."""
    history = recording.history
    found = [item for item in history.devices if item.device == device] if history is not None else []
    return sum(segment.nbytes for segment in found[0].segments) if found else None


def _simulated(recording: RecordingView, run: DeviceRun, label: str, report: ReplayReport) -> Outcome:
    source = Source.SIMULATED if run.log is not None else Source.ESTIMATED
    outcome = Outcome(
        label=label,
        source=source,
        peak_allocated_bytes=report.peak_allocated_bytes,
        peak_reserved_bytes=report.peak_reserved_bytes,
        device_allocs=report.device_allocs,
        alloc_retries=report.alloc_retries,
    )
    row = report.out_of_memory_event
    if row is None:
        return outcome
    return replace(
        outcome,
        out_of_memory=report.out_of_memory,
        out_of_memory_at=None if run.log is None else run.log.user_lines.get(int(run.events.stack[row])),
        out_of_memory_iteration=_iteration(recording, int(run.ticks[row])),
    )


def _iteration(recording: RecordingView, tick: int) -> int | None:
    from memprof.model.build import build

    iterations = build(recording).iterations
    return next((item.index for item in iterations if item.ticks[0] <= tick <= item.ticks[1]), None)


def _memory(recording: RecordingView, device: str, gpu: Gpu | None) -> tuple[int | None, int]:
    """Memory of the device to replay on, and how much of it is not the allocator's to have."""
    if gpu is not None:
        return gpu.total_bytes, gpu.context_bytes
    for state in reversed(recording.states):
        if state.device == device and state.driver_total_bytes is not None and state.driver_free_bytes is not None:
            used = state.driver_total_bytes - state.driver_free_bytes
            return state.driver_total_bytes, max(0, used - state.reserved_bytes)
    return None, 0


def _known_version(recording: RecordingView) -> str | None:
    """The torch of a run; None where it is not known, as for a snapshot."""
    torch = recording.run.torch
    return torch if _VERSION.match(torch) else None


def _version(recording: RecordingView) -> tuple[int, int]:
    match = _VERSION.match(recording.run.torch)
    return (int(match[1]), int(match[2])) if match else (2, 14)


def _is_trial(outcome: Outcome) -> bool:
    return outcome.label not in ("as recorded", "replayed")


def _rank(outcome: Outcome) -> tuple[int, int]:
    return outcome.peak_reserved_bytes or 0, outcome.device_allocs or 0


def ranked(found: DeviceWhatIf) -> DeviceWhatIf:
    """Put the settings of a device in order: those that fit first, then by reserved memory and driver calls."""
    fixed = [outcome for outcome in found.outcomes if not _is_trial(outcome)]
    trials = sorted((o for o in found.outcomes if _is_trial(o)), key=lambda o: (not o.fits, *_rank(o)))
    return replace(found, outcomes=(*fixed, *trials))


__all__ = ["CANDIDATES", "DeviceWhatIf", "Outcome", "candidates", "ranked", "what_if"]

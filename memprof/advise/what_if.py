"""A recorded run lived through again: under other allocator settings, or on another GPU.

The program is taken to ask for the same at the same moments; what changes is where the caching allocator finds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memprof._errors import UsageError
from memprof.model.block_sizes import segments_of
from memprof.model.memory import Source
from memprof.model.view import RecordingView
from memprof.record.blocks import (
    DEFAULT_POOL,
    Block,
    BlockAction,
    BlockEvents,
    BlockLog,
    BlockState,
    IntArray,
    Segment,
)
from memprof.record.events import Location, TickFlag
from memprof.record.schema import BLOCK_COLUMNS, NONE, SEGMENT_COLUMNS
from memprof.simulate.block_replay import BlockReplay
from memprof.simulate.gpus import Gpu
from memprof.simulate.replay import ReplayReport, replay
from memprof.simulate.settings import UNLIMITED, AllocatorSettings
from memprof.units import format_bytes

_COLUMN = {name: place for place, name in enumerate(BLOCK_COLUMNS)}
_SEGMENT = {name: place for place, name in enumerate(SEGMENT_COLUMNS)}
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
        UsageError: The recording does not hold what was allocated, or a setting is not known.
    """
    trials = [(text, AllocatorSettings.parse(text)) for text in settings]
    runs = list(device_runs(recording))
    if not runs:
        raise UsageError(
            f"{getattr(recording, 'path', None) or 'the recording'} does not say what was allocated when: record with "
            "--level blocks or tensors, or give a PyTorch snapshot with a trace"
        )
    return tuple(_device(recording, run, trials, gpu) for run in runs if device in (None, run.device))


@dataclass(frozen=True, slots=True, eq=False)
class DeviceRun:
    """What one device was asked for."""

    device: str
    events: BlockEvents
    ticks: IntArray
    segments: tuple[Segment, ...]
    """What the device held when the events begin."""
    before: tuple[Segment, ...]
    """The same, and the blocks whose segments are not known, each in one of its own."""
    log: BlockLog | None
    notes: tuple[str, ...]
    empties_cache: bool = False
    """Segments that went back to the driver did so because the program called `torch.cuda.empty_cache`."""


def device_runs(recording: RecordingView) -> Iterator[DeviceRun]:
    """What each device of a recording was asked for.

    Args:
        recording: See `what_if`.
    """
    log = recording.block_log()
    if log is not None and len(log.events):
        for code, name in log.devices.items():
            run = _of_device(recording, log, code, name)
            if run is not None:
                yield run
        return
    run = _of_storages(recording)
    if run is not None:
        yield run


def _of_device(recording: RecordingView, log: BlockLog, code: int, name: str) -> DeviceRun | None:
    """One device of an allocator history; where events were lost, what came after."""
    wanted = log.events[:, _COLUMN["device"]] == code
    tick, table = log.starts[-1] if log.starts else (0, np.zeros((0, len(SEGMENT_COLUMNS)), np.int64))
    notes = []
    if len(log.starts) > 1:
        wanted &= log.ticks >= tick
        notes.append("events were lost during the run: only what came after is replayed")
    rows, ticks = log.events[wanted], log.ticks[wanted]
    if not len(rows):
        return None
    column = {key: rows[:, place] for key, place in _COLUMN.items()}
    events = BlockEvents(
        action=column["action"].astype(np.int8),
        time_ns=column["time_ns"],
        address=column["address"],
        nbytes=column["nbytes"],
        stream=column["stream"],
        stack=column["stack"].astype(np.int32),
    )
    table = table[table[:, _SEGMENT["device"]] == code]
    held, alone = segments_of(table), _alone(table)
    if alone:
        notes.append(
            f"{len(alone):,} blocks from before the trace "
            f"({format_bytes(sum(segment.nbytes for segment in alone))}) lay in segments that are not known"
        )
    given_back = bool(np.isin(events.action, (BlockAction.SEGMENT_FREE, BlockAction.SEGMENT_UNMAP)).any())
    empties = given_back and _never_short(recording, name, log)
    if given_back and not empties:
        notes.append("segments went back to the driver: whether empty_cache was called is not known, nor repeated")
    return DeviceRun(name, events, ticks, held, (*held, *alone), log, tuple(notes), empties)


def _never_short(recording: RecordingView, device: str, log: BlockLog) -> bool:
    """Whether the allocator never gave segments back by itself, so that the program must have asked for it."""
    states = [state for state in recording.states if state.device == device]
    settings = AllocatorSettings.from_snapshot(log.settings)
    own_reasons = settings.garbage_collection_threshold > 0 or settings.max_split_bytes != UNLIMITED
    return bool(states) and states[-1].alloc_retries == 0 and not own_reasons


def _alone(table: IntArray) -> tuple[Segment, ...]:
    """Blocks of which only address and size are known, each as a segment."""
    found = []
    for row in table[table[:, _SEGMENT["segment"]] == NONE].tolist():
        address, nbytes, requested = (row[_SEGMENT[key]] for key in ("address", "nbytes", "requested_bytes"))
        block = Block(address, nbytes, requested, BlockState.ACTIVE_ALLOCATED, NONE)
        found.append(Segment(address, nbytes, row[_SEGMENT["stream"]], nbytes > 1 << 20, DEFAULT_POOL, False, (block,)))
    return tuple(found)


def _of_storages(recording: RecordingView) -> DeviceRun | None:
    """The storages of a CPU run, as if they lay on one CUDA device."""
    if not recording.ticks or not all(tick.flags & TickFlag.TRACKED for tick in recording.ticks):
        return None
    rows = [(b.time_ns, b.storage, b.nbytes, b.tick, True) for b in recording.births() if b.nbytes]
    sizes = {storage: nbytes for _, storage, nbytes, _, _ in rows}
    rows += [(d.time_ns, d.storage, sizes[d.storage], d.tick, False) for d in recording.deaths() if d.storage in sizes]
    if not rows:
        return None
    rows.sort(key=lambda row: (row[0], row[4]))
    actions: list[int] = []
    times: list[int] = []
    storages: list[int] = []
    nbytes: list[int] = []
    ticks: list[int] = []
    for time_ns, storage, size, tick, born in rows:
        steps = (BlockAction.ALLOC,) if born else (BlockAction.FREE_REQUESTED, BlockAction.FREE_COMPLETED)
        for step in steps:
            actions.append(int(step))
            times.append(time_ns)
            storages.append(storage + 1)
            nbytes.append(size)
            ticks.append(tick)
    count = len(actions)
    events = BlockEvents(
        action=np.array(actions, np.int8),
        time_ns=np.array(times, np.int64),
        address=np.array(storages, np.int64),
        nbytes=np.array(nbytes, np.int64),
        stream=np.zeros(count, np.int64),
        stack=np.full(count, -1, np.int32),
    )
    note = "every storage of this CPU run is taken to lie on one GPU; ops that allocate more on CUDA are not corrected"
    return DeviceRun("cpu", events, np.array(ticks, np.int64), (), (), None, (note,))


def _device(
    recording: RecordingView, run: DeviceRun, trials: Sequence[tuple[str, AllocatorSettings]], gpu: Gpu | None
) -> DeviceWhatIf:
    recorded = AllocatorSettings() if run.log is None else AllocatorSettings.from_snapshot(run.log.settings)
    total_bytes, taken_bytes = _memory(recording, run.device, gpu)
    version = _version(recording.run.torch)

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


def _version(torch: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", torch)
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


__all__ = ["CANDIDATES", "DeviceWhatIf", "Outcome", "ranked", "what_if"]

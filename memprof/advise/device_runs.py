"""What each device of a recorded run was asked for, in order: what a replay goes through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memprof.model.block_sizes import segments_of
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
from memprof.record.events import TickFlag
from memprof.record.schema import BLOCK_COLUMNS, NONE, SEGMENT_COLUMNS
from memprof.simulate.settings import UNLIMITED, AllocatorSettings
from memprof.units import format_bytes

_COLUMN = {name: place for place, name in enumerate(BLOCK_COLUMNS)}
_SEGMENT = {name: place for place, name in enumerate(SEGMENT_COLUMNS)}


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
        recording: With the allocator's history, or with every storage.
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

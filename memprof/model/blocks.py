"""Blocks of the caching allocator joined with the storages that lie in them.

Where the allocator's history was recorded, blocks are the truth about bytes: their sizes add up to what
`torch.cuda.memory_allocated` says, and workspaces that no tensor owns are among them. A storage seen by
capture tells what its block is for. Both are tied by address and time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memprof.model.block_sizes import block_sizes
from memprof.model.lifetimes import EXISTING, BoolArray, Codes, IntArray, Lifetimes
from memprof.record.blocks import BlockAction, BlockLog, BlockState
from memprof.record.events import Location, Phase, Sample, Tick
from memprof.record.schema import BLOCK_COLUMNS, SEGMENT_COLUMNS

ALLOCATOR_OP = "caching allocator"
"""The op of a block that no storage was seen in: a workspace, or made while storages were not watched."""

_SLACK_NS = 50_000
"""How much later than its storage a block may seem to be made: the allocator keeps time by another clock."""

_ALLOC, _FREED = int(BlockAction.ALLOC), int(BlockAction.FREE_REQUESTED)
_COLUMN = {name: place for place, name in enumerate(BLOCK_COLUMNS)}
_SEGMENT = {name: place for place, name in enumerate(SEGMENT_COLUMNS)}


@dataclass(slots=True, eq=False)
class _Blocks:
    """Blocks of one device, one row each in order of birth."""

    address: IntArray
    nbytes: IntArray
    stack: IntArray
    existing: BoolArray
    birth_ns: IntArray
    birth_tick: IntArray
    birth_phase: IntArray
    died: BoolArray
    death_ns: IntArray
    death_tick: IntArray
    death_phase: IntArray

    def __len__(self) -> int:
        return len(self.address)


def join_blocks(lifetimes: Lifetimes, log: BlockLog, ticks: Sequence[Tick]) -> Lifetimes:
    """Put blocks in the place of the storages of every device whose history was recorded.

    Args:
        lifetimes: Storages as capture saw them.
        log: What the allocators did.
        ticks: Finished ticks, with their samples.

    Returns:
        The storages of other devices, storages of these devices that lie in no block, and one row a
        block: with the id and the facts of its storage where one was seen.
    """
    parts = [lifetimes]
    joined = np.zeros(len(lifetimes), np.bool_)
    for device in sorted(_devices(log)):
        code = lifetimes.devices.index(device) if device in lifetimes.devices else -1
        rows = np.flatnonzero((lifetimes.device == code) & (lifetimes.address > 0))
        blocks = _read_blocks(log, device, ticks)
        storage_of, inside = _match(blocks, lifetimes, rows)
        joined[inside] = True
        parts.append(_merge(lifetimes, parts[-1], blocks, storage_of, device, log))
    return _concatenate(_selected(lifetimes, ~joined), parts[1:])


def _devices(log: BlockLog) -> set[str]:
    codes = set(np.unique(log.events[:, _COLUMN["device"]]).tolist())
    for _, start in log.starts:
        codes |= set(np.unique(start[:, _SEGMENT["device"]]).tolist())
    return {log.devices[code] for code in codes}


# ---- reading ---------------------------------------------------------------------------------------


def _read_blocks(log: BlockLog, device: str, ticks: Sequence[Tick]) -> _Blocks:
    """Every block of a device from allocation to `free_requested`, when `memory_allocated` falls."""
    code = next(code for code, name in log.devices.items() if name == device)
    events, tick = log.events, log.ticks
    rows = np.flatnonzero(events[:, _COLUMN["device"]] == code)
    if len(rows) < len(events):
        events, tick = events[rows], tick[rows]
    time_ns, phase = placed(events, tick, device, ticks)
    starts = [(start_tick, table[table[:, _SEGMENT["device"]] == code]) for start_tick, table in log.starts]
    sizes = block_sizes(starts, events, tick, log.settings)
    begun = _begun(starts, tick, ticks)
    action, address = events[:, _COLUMN["action"]], events[:, _COLUMN["address"]]
    seen = np.flatnonzero((action == _ALLOC) | (action == _FREED))
    # What was there when watching began comes before the events of that tick.
    where = np.concatenate((begun.address, address[seen]))
    made = np.concatenate((np.ones(len(begun), np.bool_), action[seen] == _ALLOC))
    existing = np.arange(len(where)) < len(begun)
    order = np.argsort(np.concatenate((begun.before, seen)), kind="stable")
    where, made, existing = where[order], made[order], existing[order]
    born, by = pair_lifetimes(where, made, existing)
    # Rows of `begun`, or else events.
    source = np.concatenate((np.arange(len(begun)), seen))[order]
    event, is_old = source[born], existing[born]
    old, fresh = event[is_old], event[~is_old]

    def column(of_old: IntArray, of_event: IntArray) -> IntArray:
        joined = np.empty(len(event), np.int64)
        joined[is_old] = of_old[old]
        joined[~is_old] = of_event[fresh]
        return joined

    birth_ns = column(begun.time_ns, time_ns)
    died = by >= 0
    death = source[by[died]]
    death_ns, death_tick, death_phase = (np.zeros(len(born), np.int64) for _ in range(3))
    death_ns[died], death_tick[died], death_phase[died] = time_ns[death], tick[death], phase[death]
    return _Blocks(
        address=where[born],
        nbytes=column(begun.nbytes, sizes),
        stack=column(begun.stack, events[:, _COLUMN["stack"]]),
        existing=is_old,
        birth_ns=birth_ns,
        birth_tick=column(begun.tick, tick),
        birth_phase=column(np.full(len(begun), int(Phase.OTHER), np.int64), phase),
        died=died,
        death_ns=np.maximum(death_ns, birth_ns),
        death_tick=death_tick,
        death_phase=death_phase,
    )


@dataclass(slots=True, eq=False)
class _Begun:
    """Blocks that were there when watching began, or began again."""

    address: IntArray
    nbytes: IntArray
    stack: IntArray
    tick: IntArray
    time_ns: IntArray
    before: IntArray
    """The event they come before."""

    def __len__(self) -> int:
        return len(self.address)


def _begun(starts: Sequence[tuple[int, IntArray]], tick: IntArray, ticks: Sequence[Tick]) -> _Begun:
    """Blocks in use at each of the starts, in order."""
    beginning = {item.index: item.start_ns for item in ticks}
    parts = [np.zeros((0, 6), np.int64)]
    for start_tick, table in starts:
        used = table[table[:, _SEGMENT["state"]] == BlockState.ACTIVE_ALLOCATED]
        first = int(np.searchsorted(tick, start_tick))
        columns = [used[:, _SEGMENT[name]] for name in ("address", "nbytes", "stack")]
        columns += [np.full(len(used), value, np.int64) for value in (start_tick, beginning.get(start_tick, 0), first)]
        parts.append(np.stack(columns, axis=1))
    return _Begun(*np.concatenate(parts).T)


def pair_lifetimes(where: IntArray, made: BoolArray, existing: BoolArray) -> tuple[IntArray, IntArray]:
    """Find what frees each block.

    Args:
        where: Address of each event, in order of time.
        made: True where a block is allocated there, False where it is freed.
        existing: Of those made, which are only found to be there; where one is known already, it stays the same block.

    Returns:
        Events that begin a block, in order; and the event that frees it, or -1.
    """
    order = np.argsort(where, kind="stable")
    same = np.empty(len(where), np.bool_)
    same[:1] = False
    same[1:] = where[order[1:]] == where[order[:-1]]
    in_use = np.zeros(len(where), np.bool_)
    in_use[1:] = made[order[:-1]]
    known = existing[order] & same & in_use
    if known.any():
        kept = np.sort(order[~known])
        born, by = pair_lifetimes(where[kept], made[kept], np.zeros(len(kept), np.bool_))
        return kept[born], np.where(by >= 0, kept[by], -1)
    frees = np.flatnonzero(same & in_use & ~made[order])
    freed_by = np.full(len(where), -1, np.int64)
    freed_by[order[frees - 1]] = order[frees]
    born = np.flatnonzero(made)
    return born, freed_by[born]


def placed(events: IntArray, tick: IntArray, device: str, ticks: Sequence[Tick]) -> tuple[IntArray, IntArray]:
    """Time and phase of each event, exact by counting.

    The allocator's clock is not ours, but samples say how many blocks had been allocated and freed when
    they were taken: an event's number places it between two samples, whatever its time says.
    """
    time_ns = events[:, _COLUMN["time_ns"]].copy()
    phase = np.full(len(events), int(Phase.OTHER), np.int64)
    action = events[:, _COLUMN["action"]]
    counted = (action == _ALLOC) | (action == _FREED)
    for item in ticks:
        first, last = np.searchsorted(tick, [item.index, item.index + 1])
        if first == last:
            continue
        part = slice(int(first), int(last))
        samples = [s for s in item.samples if s.device == device and s.operations is not None]
        if not samples:
            time_ns[part] = np.clip(time_ns[part], item.start_ns, item.end_ns)
            continue
        passed = np.cumsum(counted[part])
        at_end = samples[-1].operations or 0
        # A segment is asked for before the block that it is for.
        number = at_end - int(passed[-1]) + passed + ~counted[part]
        reached = np.array([s.operations for s in samples], np.int64)
        later = np.minimum(np.searchsorted(reached, number), len(samples) - 1)
        times = np.array([item.start_ns, *(s.time_ns for s in samples)], np.int64)
        time_ns[part] = np.maximum(np.minimum(time_ns[part], times[later + 1]), times[later] + 1)
        time_ns[part] = np.maximum.accumulate(np.minimum(time_ns[part], times[later + 1]))
        between = [_phase_before(samples, place) for place in range(len(samples))]
        phase[part] = np.array(between, np.int64)[later]
    return time_ns, phase


def _phase_before(samples: Sequence[Sample], place: int) -> int:
    """Phase of the time that a sample ends."""
    if samples[place].ends:
        return int(samples[place].phase)
    if place and not samples[place - 1].ends:
        return int(samples[place - 1].phase)
    return int(Phase.OTHER)


# ---- joining ---------------------------------------------------------------------------------------


def _match(blocks: _Blocks, lifetimes: Lifetimes, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Find the storage that lies in each block.

    Of several storages in one block the first counts: the others are the same memory, booked anew.

    Returns:
        Row of the storage in each block, -1 where none was seen; and all rows that lie in some block.
    """
    found = np.full(len(blocks), -1, np.int64)
    if not len(blocks) or not len(rows):
        return found, rows[:0]
    order = np.lexsort((blocks.birth_ns, blocks.address))
    address, birth = blocks.address[order], blocks.birth_ns[order]
    # One searchable key: the rank of the address, then the time since the earliest event.
    origin = min(int(birth.min()), int(lifetimes.birth_ns[rows].min())) - _SLACK_NS
    span = max(int(birth.max()), int(lifetimes.birth_ns[rows].max())) + _SLACK_NS - origin + 1
    ranks = np.unique(address)
    if len(ranks) * span >= 1 << 62:  # a run of weeks: coarser time keeps the key within 64 bits
        scale = len(ranks) * span // (1 << 62) + 1
    else:
        scale = 1
    width = span // scale + 1
    keys = np.searchsorted(ranks, address) * width + (birth - origin) // scale
    rank = np.minimum(np.searchsorted(ranks, lifetimes.address[rows]), len(ranks) - 1)
    known = ranks[rank] == lifetimes.address[rows]
    wanted = rank * width + (lifetimes.birth_ns[rows] + _SLACK_NS - origin) // scale
    place = np.searchsorted(keys, wanted, side="right") - 1
    good = known & (place >= 0)
    good[good] &= address[place[good]] == lifetimes.address[rows[good]]
    block = order[place[good]]
    alive = ~blocks.died[block] | (blocks.death_ns[block] + _SLACK_NS >= lifetimes.birth_ns[rows[good]])
    storage = rows[good][alive]
    found[block[alive][::-1]] = storage[::-1]
    return found, storage


def _merge(
    lifetimes: Lifetimes, before: Lifetimes, blocks: _Blocks, storage_of: IntArray, device: str, log: BlockLog
) -> Lifetimes:
    """Rows for the blocks of a device; their values extend those of the part made `before`."""
    seen = storage_of >= 0
    row = np.maximum(storage_of, 0)
    locations: Codes[Location | None] = Codes({value: code for code, value in enumerate(before.locations)})
    nowhere = locations[None]
    own_line = _by_stack(blocks.stack, log.user_lines, locations)
    own_forward = _by_stack(blocks.stack, log.forward_lines, locations)
    dtypes, ops, modules = (_with(values) for values in (before.dtypes, before.ops, before.modules))
    own_module = _by_stack(blocks.stack, log.modules, modules)
    devices = _with(before.devices)
    newest = max(int(lifetimes.id.max(initial=-1)), int(before.id.max(initial=-1)))
    fresh = newest + 1 + np.cumsum(~seen) - 1

    def taken(column: IntArray, otherwise: int | IntArray) -> IntArray:
        if not len(column):  # nothing was watched: one value for all takes no memory
            return np.broadcast_to(np.asarray(otherwise, np.int64), (len(blocks),))
        chosen: IntArray = np.where(seen, column[row], otherwise)
        return chosen

    no_op, no_type, no_module = ops[ALLOCATOR_OP], dtypes[""], modules[None]
    existing = ops[EXISTING]
    location, forward = (taken(column, nowhere) for column in (lifetimes.location, lifetimes.forward_location))
    module = taken(lifetimes.module, no_module)
    result = Lifetimes(
        id=taken(lifetimes.id, fresh),
        nbytes=blocks.nbytes,
        birth_ns=blocks.birth_ns,
        birth_tick=blocks.birth_tick,
        birth_phase=blocks.birth_phase,
        address=blocks.address,
        died=blocks.died,
        death_ns=blocks.death_ns,
        death_tick=np.maximum(blocks.death_tick, blocks.birth_tick),
        death_phase=blocks.death_phase,
        role=taken(lifetimes.role, 0),
        dtype=taken(lifetimes.dtype, no_type),
        device=np.broadcast_to(np.int64(devices[device]), (len(blocks),)),
        op=np.where(blocks.existing, existing, taken(lifetimes.op, no_op)),
        location=np.where(location == nowhere, own_line, location),
        forward_location=np.where(forward == nowhere, own_forward, forward),
        module=np.where(module == no_module, own_module, module),
        name=taken(lifetimes.name, 0),
        dtypes=tuple(dtypes),
        devices=tuple(devices),
        ops=tuple(ops),
        locations=tuple(locations),
        modules=tuple(modules),
        names=lifetimes.names,
    )
    # A storage booked as existing, whose allocation the history has, is not older than the run.
    unknown = ~blocks.existing & (result.op == existing)
    result.op[unknown] = no_op
    return result


def _by_stack(stack: IntArray, values: Mapping[int, Any], codes: Codes[Any]) -> IntArray:
    """Code of the value that each stack has, or that of None."""
    code_of = np.full(max(values, default=-1) + 2, codes[None], np.int64)  # the last is for stacks without a value
    code_of[list(values)] = [codes[value] for value in values.values()]
    found: IntArray = code_of[np.where(stack < len(code_of) - 1, stack, -1)]
    return found


def _with(values: Sequence[Any]) -> Codes[Any]:
    return Codes({value: code for code, value in enumerate(values)})


# ---- columns ---------------------------------------------------------------------------------------

_PLAIN = (
    "id nbytes birth_ns birth_tick birth_phase address died death_ns death_tick death_phase role dtype device op "
    "location forward_location module name"
).split()


def _selected(lifetimes: Lifetimes, keep: BoolArray) -> Lifetimes:
    """Some rows."""
    return _replaced(lifetimes, {name: getattr(lifetimes, name)[keep] for name in _PLAIN})


def _concatenate(first: Lifetimes, parts: Sequence[Lifetimes]) -> Lifetimes:
    """All rows in order of birth. Codes agree: each part begins with the values of the one before."""
    tables = [table for table in (first, *parts) if len(table)]
    last = [first, *parts][-1]
    if not tables:
        return last
    columns: dict[str, IntArray] = {}
    order = np.lexsort(
        [np.concatenate([getattr(part, name) for part in tables]) for name in ("birth_ns", "birth_tick")]
    )
    if len(tables) == 1 and bool((order[1:] > order[:-1]).all()):
        return _replaced(last, {name: getattr(tables[0], name) for name in _PLAIN})
    for name in _PLAIN:
        columns[name] = np.concatenate([getattr(part, name) for part in tables])[order]
    return _replaced(last, columns)


def _replaced(lifetimes: Lifetimes, columns: dict[str, Any]) -> Lifetimes:
    return replace(lifetimes, **columns)

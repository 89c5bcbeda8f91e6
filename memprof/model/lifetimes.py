"""First pass: births, deaths and roles joined into one column per fact.

A run has millions of storages, so they are kept as numpy columns; `memprof.model.storages` shows them
as `Storage` objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from memprof.record.events import Birth, Death, Location, ModuleRef, Role, RoleFact

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

EXISTING = "existing"
"""The op of a storage that was there before watching began."""

_CHUNK = 1 << 16
_NAMED_ROLES = Role.PARAMETER | Role.BUFFER

_T = TypeVar("_T")


class Codes(dict[_T, int], Generic[_T]):
    """Numbers distinct values in the order they are met: `codes[value]` is the value's number."""

    def __missing__(self, value: _T) -> int:
        """Give a new value the next number."""
        code = self[value] = len(self)
        return code


@dataclass(slots=True, eq=False)
class Lifetimes:
    """Every storage from birth to death, one row each in the order of birth records."""

    id: IntArray
    nbytes: IntArray
    birth_ns: IntArray
    birth_tick: IntArray
    birth_phase: IntArray
    address: IntArray
    """Where a storage on CUDA begins, -1 elsewhere."""
    died: BoolArray
    death_ns: IntArray
    """Meaningless where `died` is false, as are the two below."""
    death_tick: IntArray
    death_phase: IntArray
    role: IntArray
    dtype: IntArray
    """A code into `dtypes`, as are those below into theirs."""
    device: IntArray
    op: IntArray
    location: IntArray
    forward_location: IntArray
    module: IntArray
    name: IntArray
    dtypes: tuple[str, ...]
    devices: tuple[str, ...]
    ops: tuple[str, ...]
    locations: tuple[Location | None, ...]
    modules: tuple[ModuleRef | None, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Storages recorded."""
        return len(self.id)

    @property
    def existing(self) -> BoolArray:
        """Rows of storages that were there before watching began."""
        code = self.ops.index(EXISTING) if EXISTING in self.ops else -1
        found: BoolArray = self.op == code
        return found


def read_lifetimes(births: Iterable[Birth], deaths: Iterable[Death], roles: Iterable[RoleFact]) -> Lifetimes:
    """Join births with their deaths and roles.

    The first birth and the first death of an id count; deaths and roles of unknown storages are left
    out, and a death before its birth is moved to the birth.

    Args:
        births: Births of all devices.
        deaths: Deaths, in any order.
        roles: Roles; several of one storage add up.

    Returns:
        One row per storage.
    """
    lifetimes = _read_births(births)
    rows_of = _row_finder(lifetimes.id)
    _add_deaths(lifetimes, deaths, rows_of)
    _add_roles(lifetimes, roles, rows_of)
    return lifetimes


def _chunks(items: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _read_births(births: Iterable[Birth]) -> Lifetimes:
    dtypes: Codes[str] = Codes()
    devices: Codes[str] = Codes()
    ops: Codes[str] = Codes()
    locations: Codes[Location | None] = Codes()
    modules: Codes[ModuleRef | None] = Codes()
    # One entry per field of Birth, in its order: None where the field is a number already.
    codes: tuple[Codes[Any] | None, ...] = (
        *(None, None, None, None, None),
        *(dtypes, devices, ops, locations, locations, modules, None),
    )
    parts: list[list[IntArray]] = [[np.zeros(0, np.int64)] for _ in codes]
    for chunk in _chunks(births):
        for part, code, values in zip(parts, codes, zip(*chunk, strict=True), strict=True):
            numbers: Iterable[int] = values if code is None else map(code.__getitem__, values)
            if part is parts[-1]:  # the address, which is None but on CUDA
                numbers = (-1 if value is None else value for value in values)
            part.append(np.fromiter(numbers, np.int64, len(chunk)))
    columns = [np.concatenate(part) for part in parts]
    _, first = np.unique(columns[0], return_index=True)
    if len(first) < len(columns[0]):
        columns = [column[np.sort(first)] for column in columns]
    ids, birth_ns, birth_tick, birth_phase, nbytes, dtype, device, op, location, forward, module, address = columns
    size = len(ids)
    return Lifetimes(
        id=ids,
        nbytes=np.maximum(nbytes, 0),
        birth_ns=birth_ns,
        birth_tick=birth_tick,
        birth_phase=birth_phase,
        address=address,
        died=np.zeros(size, np.bool_),
        death_ns=np.zeros(size, np.int64),
        death_tick=np.zeros(size, np.int64),
        death_phase=np.zeros(size, np.int64),
        role=np.zeros(size, np.int64),
        dtype=dtype,
        device=device,
        op=op,
        location=location,
        forward_location=forward,
        module=module,
        name=np.zeros(size, np.int64),
        dtypes=tuple(dtypes),
        devices=tuple(devices),
        ops=tuple(ops),
        locations=tuple(locations),
        modules=tuple(modules),
        names=("",),
    )


@dataclass(slots=True, eq=False)
class _RowFinder:
    """Finds the rows of storage ids."""

    order: NDArray[np.intp]
    ordered: IntArray

    def __call__(self, ids: IntArray) -> tuple[IntArray, BoolArray]:
        """Rows of the known ones among `ids`, and which those are."""
        if not len(self.ordered):
            return np.zeros(0, np.int64), np.zeros(len(ids), np.bool_)
        place = np.minimum(np.searchsorted(self.ordered, ids), len(self.ordered) - 1)
        known = self.ordered[place] == ids
        return self.order[place[known]].astype(np.int64), known


def _row_finder(ids: IntArray) -> _RowFinder:
    order = np.argsort(ids, kind="stable")
    return _RowFinder(order, ids[order])


def _add_deaths(lifetimes: Lifetimes, deaths: Iterable[Death], rows_of: _RowFinder) -> None:
    parts: list[list[IntArray]] = [[np.zeros(0, np.int64)] for _ in Death._fields]
    for chunk in _chunks(deaths):
        for part, values in zip(parts, zip(*chunk, strict=True), strict=True):
            part.append(np.fromiter(values, np.int64, len(chunk)))
    ids, time_ns, tick, phase = (np.concatenate(part) for part in parts)
    rows, known = rows_of(ids)
    # Assigned backwards, so that the first death of a storage is the one that stays.
    rows = rows[::-1]
    lifetimes.died[rows] = True
    lifetimes.death_ns[rows] = time_ns[known][::-1]
    lifetimes.death_tick[rows] = tick[known][::-1]
    lifetimes.death_phase[rows] = phase[known][::-1]
    np.maximum(lifetimes.death_ns, lifetimes.birth_ns, out=lifetimes.death_ns)
    np.maximum(lifetimes.death_tick, lifetimes.birth_tick, out=lifetimes.death_tick)


def _add_roles(lifetimes: Lifetimes, roles: Iterable[RoleFact], rows_of: _RowFinder) -> None:
    codes: Codes[str] = Codes({"": 0})
    for chunk in _chunks(roles):
        ids, flags, texts = zip(*chunk, strict=True)
        rows, known = rows_of(np.fromiter(ids, np.int64, len(chunk)))
        found = np.fromiter(flags, np.int64, len(chunk))[known]
        name = np.fromiter(map(codes.__getitem__, texts), np.int64, len(chunk))[known]
        np.bitwise_or.at(lifetimes.role, rows, found)
        fresh = (name != 0) & (lifetimes.name[rows] == 0)
        lifetimes.name[rows[fresh][::-1]] = name[fresh][::-1]
        # A parameter's own name beats that of anything else sharing its storage.
        named = (name != 0) & (found & int(_NAMED_ROLES) != 0)
        lifetimes.name[rows[named][::-1]] = name[named][::-1]
    lifetimes.names = tuple(codes)

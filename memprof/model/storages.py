"""All storages of a run as a read-only mapping from id to `Storage`.

The `Storage` objects are made when asked for: a run has millions, and most are never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, ValuesView

import numpy as np

from memprof.model.lifetimes import IntArray, Lifetimes, read_lifetimes
from memprof.model.living import Living
from memprof.model.memory import UNCATEGORISED, Category, Storage
from memprof.record.events import Birth, Death, Phase, Role, RoleFact

CATEGORIES: tuple[Category | None, ...] = (*Category, None)
"""Category codes in columns are indices into this."""

CATEGORY_NAMES: tuple[str, ...] = (*(category.value for category in Category), UNCATEGORISED)
NO_CATEGORY = len(CATEGORIES) - 1

_CHUNK = 1 << 14
_PHASES = tuple(Phase)


class StorageTable(Mapping[int, Storage]):
    """Storages by id, in order of birth.

    Looking one up costs some microseconds and gives an equal, but not the same, object each time.
    Passes over all storages should read the columns instead: row `r` of `lifetimes`, `category`,
    `birth_iteration` and `death_iteration` describe one storage.
    """

    __slots__ = ("_living", "_rows", "birth_iteration", "category", "death_iteration", "lifetimes")

    def __init__(
        self,
        lifetimes: Lifetimes,
        *,
        category: IntArray,
        birth_iteration: IntArray,
        death_iteration: IntArray,
    ) -> None:
        """Join the columns.

        Args:
            lifetimes: Births and deaths.
            category: Index into `CATEGORIES` per row.
            birth_iteration: Iteration per row, -1 for none.
            death_iteration: Iteration per row, -1 for none.
        """
        self.lifetimes = lifetimes
        self.category = category
        self.birth_iteration = birth_iteration
        self.death_iteration = death_iteration
        self._rows: dict[int, int] | None = None
        self._living: Living | None = None

    @property
    def living(self) -> Living:
        """The rows by time; made when it is first asked for."""
        if self._living is None:
            self._living = Living(self.lifetimes)
        return self._living

    def __len__(self) -> int:
        """Storages recorded."""
        return len(self.lifetimes)

    def __iter__(self) -> Iterator[int]:
        """Ids in order of birth."""
        return iter(self.lifetimes.id.tolist())

    def __getitem__(self, storage: int) -> Storage:
        """The storage with this id."""
        return next(self.rows(np.array([self._row_of()[storage]])))

    def __contains__(self, storage: object) -> bool:
        """Whether there is a storage with this id."""
        return storage in self._row_of()

    def known(self, storages: Iterable[int]) -> list[Storage]:
        """The storages with these ids, in this order, without those that the run does not know; made in batches."""
        row_of = self._row_of()
        return list(self.rows(np.array([row_of[storage] for storage in storages if storage in row_of], np.int64)))

    def _row_of(self) -> dict[int, int]:
        if self._rows is None:
            self._rows = {storage_id: row for row, storage_id in enumerate(self)}
        return self._rows

    def values(self) -> ValuesView[Storage]:
        """All storages in order of birth, made in batches."""
        return _Values(self)

    def rows(self, rows: IntArray) -> Iterator[Storage]:
        """Storages at the given rows of the columns, in that order."""
        for start in range(0, len(rows), _CHUNK):
            yield from self._batch(rows[start : start + _CHUNK])

    def _batch(self, rows: IntArray) -> Iterator[Storage]:
        table = self.lifetimes
        dtypes, devices, ops = table.dtypes, table.devices, table.ops
        locations, modules, names = table.locations, table.modules, table.names
        # fmt: off
        columns = (
            table.id, table.nbytes, table.dtype, table.device, table.op,
            table.location, table.forward_location, table.module, table.name,
            table.birth_ns, table.birth_tick, table.birth_phase, self.birth_iteration,
            table.died, table.death_ns, table.death_tick, table.death_phase, self.death_iteration,
            table.role, self.category,
        )
        # fmt: on
        roles = {int(value): Role(int(value)) for value in np.unique(table.role[rows])}
        # fmt: off
        for (
            storage, nbytes, dtype, device, op, location, forward, module, name,
            birth_ns, birth_tick, birth_phase, birth_iteration,
            died, death_ns, death_tick, death_phase, death_iteration, role, category,
        ) in zip(*(column[rows].tolist() for column in columns), strict=True):
            # fmt: on
            yield Storage(
                id=storage,
                nbytes=nbytes,
                dtype=dtypes[dtype],
                device=devices[device],
                op=ops[op],
                location=locations[location],
                forward_location=locations[forward],
                module=modules[module],
                birth_ns=birth_ns,
                birth_tick=birth_tick,
                birth_phase=_PHASES[birth_phase],
                birth_iteration=birth_iteration if birth_iteration >= 0 else None,
                death_ns=death_ns if died else None,
                death_tick=death_tick if died else None,
                death_phase=_PHASES[death_phase] if died else None,
                death_iteration=death_iteration if died and death_iteration >= 0 else None,
                role=roles[role],
                name=names[name],
                category=CATEGORIES[category],
            )


class _Values(ValuesView[Storage]):
    __slots__ = ("_table",)

    def __init__(self, table: StorageTable) -> None:
        super().__init__(table)
        self._table = table

    def __iter__(self) -> Iterator[Storage]:
        return self._table.rows(np.arange(len(self._table)))


def table_of(storages: Mapping[int, Storage]) -> StorageTable:
    """The columns behind a mapping of storages.

    Args:
        storages: `MemoryModel.storages`, or any mapping written by hand.

    Returns:
        `storages` itself where it has columns already.
    """
    if isinstance(storages, StorageTable):
        return storages
    ordered = sorted(storages.values(), key=lambda storage: (storage.birth_tick, storage.birth_ns, storage.id))
    codes = {category: code for code, category in enumerate(CATEGORIES)}
    return StorageTable(
        read_lifetimes(map(_birth, ordered), _deaths(ordered), map(_role, ordered)),
        category=_column(codes[storage.category] for storage in ordered),
        birth_iteration=_column(_or_none(storage.birth_iteration) for storage in ordered),
        death_iteration=_column(_or_none(storage.death_iteration) for storage in ordered),
    )


def _column(values: Iterable[int]) -> IntArray:
    return np.fromiter(values, np.int64)


def _or_none(iteration: int | None) -> int:
    return -1 if iteration is None else iteration


def _birth(storage: Storage) -> Birth:
    return Birth(
        storage=storage.id,
        time_ns=storage.birth_ns,
        tick=storage.birth_tick,
        phase=storage.birth_phase,
        nbytes=storage.nbytes,
        dtype=storage.dtype,
        device=storage.device,
        op=storage.op,
        location=storage.location,
        forward_location=storage.forward_location,
        module=storage.module,
    )


def _deaths(storages: Iterable[Storage]) -> Iterator[Death]:
    for storage in storages:
        if storage.death_ns is not None and storage.death_tick is not None:
            yield Death(storage.id, storage.death_ns, storage.death_tick, storage.death_phase or Phase.OTHER)


def _role(storage: Storage) -> RoleFact:
    return RoleFact(storage.id, storage.role, storage.name)

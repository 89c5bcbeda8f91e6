"""What happened to storages and waits to be written down with its tick."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TypeVar

from memprof.capture.live import LiveStorage
from memprof.record.events import RoleFact
from memprof.record.schema import BIRTH_COLUMNS
from memprof.record.writer import RecordingWriter

_LAST_USE_FROM_BYTES = 64 * 1024
"""Of smaller storages it is not recorded when they were last used."""
_MOST_WAITING = 16_384 * len(BIRTH_COLUMNS)
"""Numbers of births that wait for the end of their tick; a tick that never ends would keep them all."""
_Event = TypeVar("_Event")


class StorageLog:
    """Births, deaths, roles and last uses, as packed rows; any thread may append to the lists.

    Args:
        writer: The recording.
    """

    def __init__(self, writer: RecordingWriter) -> None:
        self._writer = writer
        self.births: list[int] = []
        self.deaths: list[int] = []
        self.roles: list[RoleFact] = []
        self._last_uses: list[int] = []

    def born(self, row: tuple[int, ...]) -> None:
        """Note a birth, as a row of `schema.BIRTH_COLUMNS`."""
        self.births.extend(row)
        if len(self.births) >= _MOST_WAITING:
            births, deaths, roles = self.take()
            self._writer.write_storages(births, deaths, roles, self.take_last_uses())

    def last_used(self, live: LiveStorage) -> bool:
        """Note when a storage was used for the last time; returns whether it is large enough for that."""
        if live.nbytes < _LAST_USE_FROM_BYTES:
            return False
        self._last_uses.extend((live.id, live.used_ns))
        return True

    def take(self) -> tuple[array[int], array[int], list[RoleFact]]:
        """Births, deaths and roles since the last call."""
        return array("q", _drain(self.births)), array("q", _drain(self.deaths)), _drain(self.roles)

    def take_last_uses(self, alive: Iterable[LiveStorage] = ()) -> array[int]:
        """When storages that died since the last call had last been used, and those that are alive, if given."""
        for live in alive:
            self.last_used(live)
        return array("q", _drain(self._last_uses))


def _drain(events: list[_Event]) -> list[_Event]:
    """Empty a list that other threads may append to at any time, losing nothing."""
    taken = events[:]
    del events[: len(taken)]
    return taken

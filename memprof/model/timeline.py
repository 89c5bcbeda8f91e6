"""The births and deaths of one device in one order, and the running sum of live bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memprof.model.lifetimes import BoolArray, IntArray, Lifetimes


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Storage events of a device, ordered by tick, then time, births before deaths.

    A *position* is a moment between events: position `p` is after the first `p` of them.
    """

    device: str
    tick: IntArray
    time_ns: IntArray
    phase: IntArray
    row: IntArray
    """Row of the storage in its table."""
    born: BoolArray
    """True for a birth, False for a death."""
    delta: IntArray
    """Change of live bytes."""
    running: IntArray
    """Live bytes at each position: one entry more than there are events."""
    flow: IntArray
    """The same, but a storage that was found to exist already does not count as an increase."""

    def __len__(self) -> int:
        """Number of events."""
        return len(self.tick)

    def positions(self, ticks: IntArray, times_ns: IntArray) -> IntArray:
        """Positions of moments: after every event that is not later.

        Args:
            ticks: Tick index of each moment.
            times_ns: Time of each moment.

        Returns:
            Position per moment.
        """
        order = np.lexsort((np.concatenate((self.time_ns, times_ns)), np.concatenate((self.tick, ticks))))
        is_event = order < len(self)
        passed = np.cumsum(is_event)
        position = np.zeros(len(ticks), np.int64)
        position[order[~is_event] - len(self)] = passed[~is_event]
        return position

    def live_rows(self, position: int) -> IntArray:
        """Rows of the storages alive at a position, ascending."""
        rows, born = self.row[:position], self.born[:position]
        return np.setdiff1d(rows[born], rows[~born], assume_unique=True)


def read_timeline(lifetimes: Lifetimes, device: str) -> Timeline:
    """Order the events of a device.

    Args:
        lifetimes: Storages of all devices.
        device: The device.

    Returns:
        Its timeline, empty for a device without storages.
    """
    code = lifetimes.devices.index(device) if device in lifetimes.devices else -1
    births = np.flatnonzero(lifetimes.device == code)
    deaths = births[lifetimes.died[births]]
    row = np.concatenate((births, deaths)).astype(np.int64)
    born = np.arange(len(row)) < len(births)
    tick = np.concatenate((lifetimes.birth_tick[births], lifetimes.death_tick[deaths]))
    time_ns = np.concatenate((lifetimes.birth_ns[births], lifetimes.death_ns[deaths]))
    phase = np.concatenate((lifetimes.birth_phase[births], lifetimes.death_phase[deaths]))
    # Stable: at equal times births stay before deaths, so a sum never dips below what was live.
    order = np.lexsort((time_ns, tick))
    row, born = row[order], born[order]
    delta = np.where(born, lifetimes.nbytes[row], -lifetimes.nbytes[row])
    flow = np.where(lifetimes.existing[row] & born, 0, delta)
    return Timeline(
        device=device,
        tick=tick[order],
        time_ns=time_ns[order],
        phase=phase[order],
        row=row,
        born=born,
        delta=delta,
        running=_running(delta),
        flow=_running(flow),
    )


def _running(delta: IntArray) -> IntArray:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(delta)))

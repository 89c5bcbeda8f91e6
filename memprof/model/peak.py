"""The peak of each device and what it was made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memprof.model.figures import Moment
from memprof.model.iterations import PeakCandidate
from memprof.model.levels import Levels
from memprof.model.lifetimes import IntArray
from memprof.model.memory import UNCATEGORISED, Peak, PeakLine, Source
from memprof.model.samples import UNKNOWN
from memprof.model.storages import CATEGORIES, CATEGORY_NAMES, StorageTable

PEAK_LINES = 10
"""Lines of source named for a peak."""

PEAK_STORAGES = 8
"""Storages named for a peak."""

ESTIMATE_MARGIN = 0.01
"""By this share an estimate must exceed the measured peak to replace it: counters of a whole process
are not truer than that."""


def find_peak(levels: Levels, candidates: Sequence[PeakCandidate], storages: StorageTable) -> Peak | None:
    """Find the largest allocation of a device.

    Args:
        levels: Allocated bytes of the device.
        candidates: Peaks of the iterations and of the time around them.
        storages: All storages, with categories.

    Returns:
        The peak, or None where nothing is known of the device.
    """
    chosen = _choose(candidates)
    if chosen is None:
        return None
    moment = chosen.moment
    position = moment.position if moment.position is not None else _highest_watched(levels)
    by_category: dict[str, int] | None = None
    lines: tuple[PeakLine, ...] = ()
    largest: tuple[int, ...] = ()
    if position is not None:
        rows = levels.timeline.live_rows(position)
        # At another moment than the one that was watched nobody knows what the rest was.
        by_category = _by_category(storages, rows, moment.nbytes if moment.position is not None else 0)
        lines = lines_of(storages, rows)
        order = np.argsort(-storages.lifetimes.nbytes[rows], kind="stable")[:PEAK_STORAGES]
        largest = tuple(storages.lifetimes.id[rows[order]].tolist())
    reserved = levels.samples.reserved
    highest_reserved = int(np.max(reserved, initial=UNKNOWN))
    return Peak(
        device=levels.timeline.device,
        allocated_bytes=moment.nbytes,
        reserved_bytes=None if highest_reserved == UNKNOWN else highest_reserved,
        source=chosen.source,
        iteration=chosen.iteration,
        phase=moment.phase,
        time_ns=moment.time_ns,
        by_category=by_category,
        lines=lines,
        largest=largest,
    )


def _choose(candidates: Sequence[PeakCandidate]) -> PeakCandidate | None:
    best: dict[Source, PeakCandidate] = {}
    for candidate in candidates:
        known = best.get(candidate.source)
        if known is None or _better(candidate.moment, known.moment):
            best[candidate.source] = candidate
    measured, estimated = best.get(Source.MEASURED), best.get(Source.ESTIMATED)
    if measured is None or estimated is None:
        return measured or estimated
    margin = measured.moment.nbytes * (1 + ESTIMATE_MARGIN)
    return estimated if estimated.moment.nbytes > margin else measured


def _better(moment: Moment, known: Moment) -> bool:
    """Whether a moment is higher, or as high and watched where the other was not."""
    return (moment.nbytes, moment.position is not None) > (known.nbytes, known.position is not None)


def _highest_watched(levels: Levels) -> int | None:
    """Position of the highest watched moment, the earliest of equals."""
    events = np.flatnonzero(levels.watched)
    if not len(events):
        return None
    highest = np.maximum(levels.before[events], levels.after[events])
    event = int(events[np.argmax(highest)])
    return event + int(levels.after[event] >= levels.before[event])


def _by_category(storages: StorageTable, rows: IntArray, allocated_bytes: int) -> dict[str, int]:
    sums = np.zeros(len(CATEGORIES), np.int64)
    np.add.at(sums, storages.category[rows], storages.lifetimes.nbytes[rows])
    by_name = dict(zip(CATEGORY_NAMES, sums.tolist(), strict=True))
    # What the counter saw and no known storage explains: rounding, workspaces.
    by_name[UNCATEGORISED] += max(0, allocated_bytes - sum(by_name.values()))
    ordered = sorted(by_name.items(), key=lambda item: -item[1])
    return {name: nbytes for name, nbytes in ordered if nbytes}


def lines_of(storages: StorageTable, rows: IntArray) -> tuple[PeakLine, ...]:
    """Sum storages up by line, category and module.

    Args:
        storages: All storages.
        rows: Rows of the table to sum up.

    Returns:
        At most `PEAK_LINES`, largest first.
    """
    table = storages.lifetimes
    keys = np.stack((table.location[rows], storages.category[rows], table.module[rows]))
    groups, group_of = np.unique(keys, axis=1, return_inverse=True)
    group_of = group_of.reshape(-1)
    count = np.bincount(group_of, minlength=groups.shape[1])
    nbytes = np.zeros(groups.shape[1], np.int64)
    np.add.at(nbytes, group_of, table.nbytes[rows])
    largest = [row for row in np.argsort(-nbytes, kind="stable")[:PEAK_LINES].tolist() if nbytes[row]]
    return tuple(
        PeakLine(
            location=table.locations[int(groups[0, row])],
            nbytes=int(nbytes[row]),
            count=int(count[row]),
            category=CATEGORIES[int(groups[1, row])],
            module=table.modules[int(groups[2, row])],
        )
        for row in largest
    )

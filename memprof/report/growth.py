"""How memory moved over the iterations of a run, in words."""

from __future__ import annotations

import math

from memprof.model.memory import Trend
from memprof.report.wording import UNKNOWN, per_iteration, percent, source_suffix

FLAT_SHARE = 0.005
"""What memory gains in a run is none below this share of its peak: as a curve it would be flat."""


def is_steady(trend: Trend, peak_bytes: int | None = None) -> bool:
    """Say whether memory stayed where it was.

    Args:
        trend: Slope of allocated bytes at the end of train iterations.
        peak_bytes: The peak of the device; growth that makes no mark on it is none.

    Returns:
        Whether all that was added is less than 0.5 % of the peak, or less than a byte an iteration.
    """
    if not math.isfinite(trend.bytes_per_iteration):
        return False
    added = abs(trend.grown_bytes)
    return abs(trend.bytes_per_iteration) < 1 or (peak_bytes is not None and added < FLAT_SHARE * peak_bytes)


def trend_sentence(trend: Trend, peak_bytes: int | None = None) -> str:
    """Say how memory moved over the train iterations.

    Args:
        trend: Slope of allocated bytes at the end of train iterations.
        peak_bytes: The peak of the device, where it is known; see `is_steady`.

    Returns:
        For example `+38.2 MiB/iteration over iterations 3 to 40, rising in 100 % (simulated)`.
    """
    span = f"over iterations {trend.first_iteration} to {trend.last_iteration}"
    source = source_suffix(trend.source)
    if not math.isfinite(trend.bytes_per_iteration):
        return f"{UNKNOWN} {span}"
    if is_steady(trend, peak_bytes):
        return f"steady {span}{source}"
    rising = percent(trend.rising_share, 1.0)
    return f"{per_iteration(trend.bytes_per_iteration)} {span}, rising in {rising}{source}"

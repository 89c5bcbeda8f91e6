"""The largest value of a parameter, such as the batch size, with which a run fits a GPU.

Few runs at small values show how need grows; the value that this says is tried, and one above, so that the answer is
seen, not worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_MOST_GROWTH = 8
"""A candidate is at most so many times the largest value that is known to fit: growth seen is not growth everywhere."""


@dataclass(frozen=True)
class Trial:
    """One run."""

    value: int
    fits: bool
    needed_bytes: int | None
    """Context and highest reserved memory, simulated; None where the run did not get to its peak."""
    seconds: float
    reason: str = ""
    """Why it does not fit."""
    rising: bool = False
    """The run was cut off while its iterations still took more and more: it may have needed more later."""


@dataclass(frozen=True)
class Fit:
    """What was found for one GPU."""

    gpu: str
    total_bytes: int
    limit_bytes: int
    """What the run may take: the total less the margin asked for."""
    largest: int | None
    """None: not even the smallest value fits."""
    bounded: bool
    """The next value up was tried and does not fit; else the highest value allowed, or the runs, were used up."""
    trials: tuple[Trial, ...]
    """In order of time."""
    used_up: bool = False
    """The runs came to their end before the search did: a larger value may fit."""

    @property
    def at_largest(self) -> Trial | None:
        """The run with the largest value that fits."""
        return next((trial for trial in self.trials if trial.value == self.largest), None)


def largest_that_fits(
    run: Callable[[int], Trial],
    *,
    gpu: str,
    total_bytes: int,
    limit_bytes: int,
    first: int = 1,
    most: int = 1 << 20,
    step: int = 1,
    runs: int = 16,
) -> Fit:
    """Search for the largest value that fits.

    Args:
        run: Runs with a value.
        gpu: Name for the answer.
        total_bytes: Of the GPU.
        limit_bytes: What a run may take.
        first: Smallest value, where the search begins; candidates are `first` and multiples of `step` above it.
        most: Largest value to try.
        step: Values are this far apart.
        runs: Most runs.

    Returns:
        What was found; need is taken to grow with the value.
    """
    trials: list[Trial] = []
    most = first + max(most - first, 0) // step * step
    low, high = 0, most + step
    candidate, jump = first, step
    while len(trials) < runs:
        trial = run(candidate)
        trials.append(trial)
        if trial.fits:
            jump = 2 * jump if candidate == low + jump else step
            low = candidate
        else:
            high, jump = candidate, step
        if low == 0 or high - low <= step:
            break
        guess = _guess(trials, limit_bytes)
        wanted = 2 * low if guess is None else min(guess, _MOST_GROWTH * low)
        if wanted < low + jump:
            wanted = low + jump
        if wanted >= high:
            wanted = high - step if high > most else (low + high) // 2
        candidate = max(low + step, first + (wanted - first) // step * step)
    bounded = low > 0 and high <= most and high - low <= step
    used_up = low > 0 and high - low > step
    return Fit(gpu, total_bytes, limit_bytes, low or None, bounded, tuple(trials), used_up)


def _guess(trials: list[Trial], limit_bytes: int) -> int | None:
    """The value at which need reaches the limit, from the last three runs that fit; None where it does not grow."""
    points = sorted((trial.value, trial.needed_bytes) for trial in trials if trial.fits and trial.needed_bytes)
    if len(points) < 2:
        return None
    (x1, y1), (x2, y2) = points[-2:]
    slope = (y2 - y1) / (x2 - x1)
    bend = 0.0
    if len(points) > 2:
        x0, y0 = points[-3]
        bend = max(0.0, (slope - (y1 - y0) / (x1 - x0)) / (x2 - x0))
    if slope <= 0:
        return None

    def need(value: float) -> float:
        return y2 + slope * (value - x2) + bend * (value - x2) * (value - x1)

    low, high = float(x2), float(x2 * _MOST_GROWTH * 2)
    if need(high) <= limit_bytes:
        return int(high)
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if need(middle) <= limit_bytes else (low, middle)
    return int(low)


__all__ = ["Fit", "Trial", "largest_that_fits"]

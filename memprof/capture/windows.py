"""When to watch every storage: the policy behind `--level`.

Level `auto` watches the first iterations, watches again for a few when the program does something
new (a root module called from a place that never called before: the first validation), and comes back
at growing distances for as long as the last census or the counters show growth. What is done once an epoch falls
between these: where memory goes up from epoch to epoch, it watches where a loop over a loader ends. Levels `steps`
and `blocks` never do: to be told of each op takes the host time.
"""

from __future__ import annotations

import enum
from collections import deque
from itertools import accumulate, pairwise

from memprof.record.events import Tick, TickFlag

_FIRST_ITERATIONS = 4
_MOST_TICKS_A_WINDOW = 64
_MOST_TICKS_TO_A_STEP = 256
"""An iteration that has begun in a window is watched to its end, up to so many more ticks: gradients of many batches
may be accumulated before the optimizer steps."""
_AFTER_NEWS = 4
_CENSUSES_AFTER_NEWS = 2
_LONGEST_FIRST = 32
"""A census that finds something in the first iterations keeps them watched up to this one: what becomes of a pile
of outputs is seen when the loop ends."""
_RECHECK_FIRST = 8
_RECHECK_ITERATIONS = 3
_AFTER_LOOP = 1
"""Iterations watched after the one that follows the end of a loop."""
_LOOPS_LOOKED_BACK = 4
"""An epoch may have so many loops: training, validation, tests. Memory at the end of one is compared with that at the
end of as many before."""
_SLOPE_POINTS = 16
_SLOPE_PARTS = 3
"""Growth is steady where memory went up for good in each of so many parts of the last iterations."""
_SLOPE_MIN_BYTES = 4096
_POINTS = 512
"""Ends of so many iterations are remembered, for growth that comes rarely but regularly."""
_LEAST_PERIOD = 4
_PERIODS_EXPECTED = 4
"""So many times memprof watches where growth that has come regularly is to come next."""


class Level(str, enum.Enum):
    """How closely a run is watched."""

    STEPS = "steps"
    BLOCKS = "blocks"
    TENSORS = "tensors"
    AUTO = "auto"


def at_growing_distances(n: int) -> bool:
    """Whether a number is a power of two or three times one: 1, 2, 3, 4, 6, 8, 12, 16, 24..."""
    return n & (n - 1) == 0 or (n % 3 == 0 and (n // 3) & (n // 3 - 1) == 0)


class WatchPlan:
    """Decides, tick by tick, whether storages are watched and a census is due.

    Args:
        level: The depth of capture asked for.
    """

    def __init__(self, level: Level) -> None:
        self._level = level
        self.watching = level in (Level.TENSORS, Level.AUTO)
        self._iterations = 0
        self._left = _FIRST_ITERATIONS
        self._ticks_left = _MOST_TICKS_A_WINDOW
        self._recheck_at = _RECHECK_FIRST
        self._suspicious = False
        self._ends: deque[int] = deque(maxlen=_POINTS)
        self._expected: deque[int] = deque()
        """Iterations in which memory is to rise again."""
        self._loop_ends: deque[int] = deque(maxlen=_LOOPS_LOOKED_BACK)
        self._rising_loops = 0
        self._news = 0
        self._fresh = 0
        """Iterations left of those that follow something new."""

    def news(self) -> None:
        """A root module was called from a place that never called before."""
        self._news = _AFTER_NEWS

    def loop_ended(self, allocated_bytes: int | None) -> bool:
        """A loop over a loader has ended.

        Args:
            allocated_bytes: What is allocated now.

        Returns:
            Whether to watch from here on: memory has gone up since the loops before, and what is done once an epoch
            is done now. The more often it has gone up, the more rarely.
        """
        if self._level is not Level.AUTO or allocated_bytes is None:
            return False
        before = min(self._loop_ends, default=allocated_bytes)
        self._loop_ends.append(allocated_bytes)
        if allocated_bytes - before < _SLOPE_MIN_BYTES:
            return False
        self._rising_loops += 1
        if not at_growing_distances(self._rising_loops):
            return False
        self._news = max(self._news, _AFTER_LOOP)
        return True

    @property
    def census_due(self) -> bool:
        """Whether to look at what survived at the boundary that comes now."""
        if not self.watching:
            return False
        n = self._iterations
        sparse = at_growing_distances(n)
        if self._level is Level.TENSORS:
            if 0 < self._fresh <= _CENSUSES_AFTER_NEWS:
                return True
            return 2 <= n <= 6 or (n > 6 and sparse)
        return n >= 2 and (0 < self._left <= 2 or (self._left <= 0 and (sparse or n < _RECHECK_FIRST)))

    def suspect(self, suspicious: bool) -> None:
        """Tell what the census said."""
        self._suspicious = suspicious

    def tick_ended(self, tick: Tick, allocated_bytes: int | None, *, iteration_ended: bool) -> None:
        """Account for a finished tick and decide about the next."""
        if iteration_ended:
            self._iterations += 1
        if self._news:
            self._fresh = self._news
        elif iteration_ended and self._fresh:
            self._fresh -= 1
        if self._level is not Level.AUTO:
            self._news = 0
            return
        if iteration_ended and allocated_bytes is not None:
            self._ends.append(allocated_bytes)
        if self.watching:
            computed = bool(tick.flags & (TickFlag.FORWARD | TickFlag.BACKWARD | TickFlag.OPTIMIZER_STEP))
            self._ticks_left -= computed
            self._left -= iteration_ended
        if self._news:
            if not self.watching or self._left < self._news:
                self._open(self._news)
            self._news = 0
        lasting = self._suspicious and self._iterations <= _LONGEST_FIRST
        used_up = self._ticks_left <= 0 and (iteration_ended or self._ticks_left <= -_MOST_TICKS_TO_A_STEP)
        if self.watching and ((self._left <= 0 and not lasting) or used_up):
            self.watching = False
            self._recheck_at = max(_RECHECK_FIRST, 2 * self._iterations)
        elif not self.watching and self._iterations >= self._recheck_at:
            self._recheck_at = 2 * self._iterations
            self._expected = deque(self._next_rises())
            if self._suspicious or self._rises():
                self._open(_RECHECK_ITERATIONS)
        elif not self.watching and self._expected and self._iterations + 2 >= self._expected[0]:
            self._expected.popleft()
            self._open(_RECHECK_ITERATIONS)

    def _open(self, iterations: int) -> None:
        self.watching = True
        self._left = iterations
        self._ticks_left = _MOST_TICKS_A_WINDOW

    def _lasting(self) -> list[int]:
        """The least that is allocated at the end of an iteration or of any after it, oldest first."""
        lowest = list(accumulate(reversed(self._ends), min))
        lowest.reverse()
        return lowest

    def _rises(self) -> bool:
        """Whether allocated memory at the end of iterations has gone up for good all through the last of them."""
        lasting = self._lasting()[-_SLOPE_POINTS:]
        if len(lasting) < _RECHECK_FIRST:
            return False
        last = len(lasting) - 1
        parts = [lasting[last * part // _SLOPE_PARTS] for part in range(_SLOPE_PARTS + 1)]
        return all(after - before >= _SLOPE_MIN_BYTES for before, after in pairwise(parts))

    def _next_rises(self) -> list[int]:
        """Iterations in which memory goes up next, where it did so at equal distances: once an epoch, for example."""
        first = self._iterations - len(self._ends) + 1
        rose = [
            number
            for number, (before, after) in enumerate(pairwise(self._lasting()), start=first + 1)
            if after - before >= _SLOPE_MIN_BYTES
        ][-_SLOPE_PARTS:]
        distances = [after - before for before, after in pairwise(rose)]
        if len(rose) < _SLOPE_PARTS or max(distances) - min(distances) > 1 or min(distances) < _LEAST_PERIOD:
            return []
        passed = (self._iterations - rose[-1]) // distances[-1]
        return [rose[-1] + distances[-1] * (passed + count) for count in range(1, _PERIODS_EXPECTED + 1)]

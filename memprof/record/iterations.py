"""Which ticks make up which iteration.

An iteration is one turn of the user's loop. Where the user marks it (`prof.step()`,
`memprof.iterations(loader)`), that is the iteration. Elsewhere ticks are grouped by what happened in
them:

* a tick with an optimizer step closes a **train** iteration. Ticks with a backward but no step that
  come before it (gradient accumulation) belong to it, and so do ticks whose graph its backward used
  (one cell of an RNN called in a loop);
* a tick in which the forward of a module in training raised (out of memory, caught by the script) is a
  train iteration of its own, cut off, unless a backward followed;
* another tick with a forward that no backward ever uses is an **evaluate** iteration of its own;
* without any optimizer that steps (a hand-written update), a tick with a backward is a train iteration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from memprof.record.events import Tick, TickFlag

TRAIN = "train"
EVALUATE = "evaluate"
OTHER = "other"

_NEVER_STEPS = 4
"""In a run shorter than this an optimizer may not have come to its first step yet."""

_MAX_ACCUMULATION_TICKS = 1024
"""A longer run of backwards without a step is not gradient accumulation."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """A turn of the user's loop, as a range of ticks."""

    index: int
    kind: str
    """`train`, `evaluate` or `other` (code without a forward, between loops)."""
    first_tick: int
    last_tick: int
    start_ns: int
    end_ns: int
    tracked: bool
    """Every storage was watched during the whole iteration."""
    epoch: int
    complete: bool
    """False where the run ended inside it, or an error in its forward kept it from a backward."""


def group(ticks: Sequence[Tick], *, has_optimizer: bool) -> list[Iteration]:
    """Group ticks into iterations.

    Args:
        ticks: All ticks of a run in order.
        has_optimizer: Whether any optimizer is known to have existed; a step in a tick says so as well.

    Returns:
        Iterations in order of time. Every tick with a forward, a backward or a step belongs to
        exactly one; ticks without any (set-up before a loop) form `other` iterations.
    """
    if any(tick.flags & TickFlag.EXPLICIT for tick in ticks):
        runs = _explicit_runs(ticks)
    else:
        steps = any(tick.flags & TickFlag.OPTIMIZER_STEP for tick in ticks)
        runs = _inferred_runs(ticks, has_optimizer=steps or (has_optimizer and len(ticks) < _NEVER_STEPS))
    return [_iteration(index, run) for index, run in enumerate(runs)]


def _explicit_runs(ticks: Sequence[Tick]) -> list[list[Tick]]:
    runs: list[list[Tick]] = [[]]
    for tick in ticks:
        runs[-1].append(tick)
        if tick.flags & TickFlag.EXPLICIT:
            runs.append([])
    return [run for run in runs if run]


def _inferred_runs(ticks: Sequence[Tick], *, has_optimizer: bool) -> list[list[Tick]]:
    joined = _last_consumers(ticks)
    runs: list[list[Tick]] = []
    pending: list[Tick] = []

    def flush() -> None:
        runs.extend([tick] for tick in pending)
        pending.clear()

    for tick in ticks:
        pending.append(tick)
        if tick.flags & TickFlag.OPTIMIZER_STEP or (tick.flags & TickFlag.BACKWARD and not has_optimizer):
            runs.extend(_split_evaluation(pending, joined))
            pending.clear()
        elif tick.flags & TickFlag.BACKWARD:
            if len(pending) > _MAX_ACCUMULATION_TICKS:
                flush()
        elif tick.index not in joined:
            if not any(other.flags & TickFlag.BACKWARD or other.index in joined for other in pending):
                flush()
    flush()
    return runs


def _last_consumers(ticks: Iterable[Tick]) -> dict[int, int]:
    """Tick -> the last tick whose backward used its graph."""
    consumers: dict[int, int] = {}
    for tick in ticks:
        for earlier in tick.consumed:
            if earlier != tick.index:
                consumers[earlier] = tick.index
    return consumers


def _split_evaluation(pending: Sequence[Tick], joined: dict[int, int]) -> list[list[Tick]]:
    """Peel the leading ticks that take no part in the step off the front of an iteration."""
    first = 0
    while first < len(pending) - 1:
        tick = pending[first]
        if tick.flags & TickFlag.BACKWARD or tick.index in joined:
            break
        first += 1
    return [[tick] for tick in pending[:first]] + [list(pending[first:])]


def _iteration(index: int, run: Sequence[Tick]) -> Iteration:
    flags = TickFlag(0)
    for tick in run:
        flags |= tick.flags
    trained = flags & (TickFlag.BACKWARD | TickFlag.OPTIMIZER_STEP)
    interrupted = flags & TickFlag.INTERRUPTED and not trained
    if trained or interrupted:
        kind = TRAIN
    elif flags & TickFlag.FORWARD:
        kind = EVALUATE
    else:
        kind = OTHER
    return Iteration(
        index=index,
        kind=kind,
        first_tick=run[0].index,
        last_tick=run[-1].index,
        start_ns=run[0].start_ns,
        end_ns=run[-1].end_ns,
        tracked=all(tick.flags & TickFlag.TRACKED for tick in run),
        epoch=run[0].epoch,
        complete=not (flags & TickFlag.FINAL or interrupted),
    )

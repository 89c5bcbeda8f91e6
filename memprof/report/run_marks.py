"""Iterations and phases of a run as stretches of time, for tools that draw a timeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from memprof.record.events import Phase

if TYPE_CHECKING:
    from memprof.model.memory import MemoryModel
    from memprof.record.events import Tick


class Stretch(NamedTuple):
    """A named stretch of time, in nanoseconds."""

    name: str
    start_ns: int
    end_ns: int


def iteration_stretches(model: MemoryModel) -> list[Stretch]:
    """Every iteration, in order of time.

    Args:
        model: The run.

    Returns:
        Stretches named `train iteration 3`; none ends before it starts.
    """
    return [
        Stretch(f"{each.kind} iteration {each.index}", each.start_ns, max(each.start_ns, each.end_ns))
        for each in model.iterations
    ]


def phase_stretches(model: MemoryModel) -> list[Stretch]:
    """Every forward, backward and optimizer step that was seen, in order of time.

    Args:
        model: The run.

    Returns:
        Stretches that do not overlap, named as phases are.
    """
    return [stretch for tick in model.ticks for stretch in _phases_of(tick)]


def _phases_of(tick: Tick) -> Iterator[Stretch]:
    """Counters of all devices are read at one phase boundary, so the first device's samples tell all."""
    running: tuple[Phase, int] | None = None
    device = tick.samples[0].device if tick.samples else ""
    for sample in tick.samples:
        if sample.device != device:
            continue
        if running is not None and (sample.ends or sample.phase != running[0]):
            yield Stretch(running[0].label, running[1], max(running[1], sample.time_ns))
            running = None
        if not sample.ends and sample.phase is not Phase.OTHER and running is None:
            running = sample.phase, sample.time_ns
    if running is not None:  # the run was cut off inside it
        yield Stretch(running[0].label, running[1], max(running[1], tick.end_ns))


def first_moment_ns(model: MemoryModel) -> int:
    """The earliest time the model knows of, in nanoseconds; 0 where it knows none."""
    known = [tick.start_ns for tick in model.ticks[:1]]
    known += [iteration.start_ns for iteration in model.iterations[:1]]
    known += [points[0].time_ns for points in model.composition.values() if points]
    return min(known, default=0)

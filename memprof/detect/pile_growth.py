"""Whether a pile is worth a finding: it goes on growing, and it costs enough."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from memprof.detect.evidence import KIB, MIN_ITERATIONS, counted, device_of, line_growing, place
from memprof.detect.finding import Skipped
from memprof.detect.piles import CYCLE, Pile, piles
from memprof.detect.surroundings import moves_to_host, reads_what_it_stores
from memprof.model.memory import MemoryModel
from memprof.record.events import Phase

MIN_GROWTH_BYTES = 4 * KIB
"""Tensors without a graph that add less in an iteration are not worth a word."""

_MAX_IN_FLIGHT = 4
"""Tensors of so many iterations may be arguments of a call that is being made, which nothing can name."""

_STALE_SHARE = 3
"""A pile that took up nothing in the last third of the iterations watched has stopped growing."""


def checked(model: MemoryModel, code: str, *, even_bounded: bool = False) -> Iterator[Pile | Skipped]:
    """Piles of one rule that are worth a finding, and why nothing can be said of others."""
    for pile in piles(model, code):
        reason = grown(model, pile, even_bounded=even_bounded)
        if reason is None:
            yield pile
        elif reason:
            yield Skipped(code, reason)


def is_dear(pile: Pile) -> bool:
    """Whether a pile costs enough to be told of: a graph does however small its tensors are."""
    return pile.with_graph or pile.each_time >= MIN_GROWTH_BYTES


def grown(model: MemoryModel, pile: Pile, *, even_bounded: bool = False) -> str | None:
    """Whether a pile has grown over enough iterations and goes on doing so.

    Args:
        model: The run.
        pile: Tensors of one holder.
        even_bounded: A bound of the container does not excuse it.

    Returns:
        None where it has; else why nothing can be said, or '' where all is well.
    """
    if pile.holder.bounded and not even_bounded:
        return ""
    if pile.holder.kind == "unknown" and len(pile.iterations) <= _MAX_IN_FLIGHT:
        return ""
    if not pile.with_graph and not pile.holder.container and not line_growing(model, pile.made_at):
        return ""
    if not pile.iterations:
        return ""  # all of it is of the iteration that runs
    if len(pile.iterations) < MIN_ITERATIONS - 1:
        return f"{pile.holder.text} keeps tensors of {counted(len(pile.iterations), 'iteration')} only"
    if _is_passing(pile):
        return f"{pile.holder.text} keeps what the last iterations made, and lets go of what is older"
    if pile.full or _has_stopped(model, pile):
        return f"{pile.holder.text} has stopped growing"
    if not pile.with_graph and _is_on_host_by_design(model, pile):
        return f"{pile.holder.text} collects on the host, where {place(pile.stored)} moves the tensors"
    if not pile.with_graph and _is_working_state(model, pile):
        return f"{pile.holder.text} is what the model goes on computing with"
    return None


def _is_passing(pile: Pile) -> bool:
    """Whether no tensor was seen twice: each census met younger ones, as in a window that moves on.

    What waits for the garbage collector comes and goes, and is not meant.
    """
    return pile.code != CYCLE and len(pile.oldest) > 1 and len(set(pile.oldest)) == len(pile.oldest)


def _has_stopped(model: MemoryModel, pile: Pile) -> bool:
    """Whether nothing was added in the last third of the watched iterations of its kind, and for long as it goes.

    What is kept once an epoch adds nothing in most iterations.
    """
    kinds = {model.iterations[index].kind for index in pile.iterations}
    added = sorted(pile.iterations)
    watched = [
        iteration.index
        for iteration in model.iterations
        if iteration.tracked and iteration.kind in kinds and added[0] <= iteration.index < pile.seen_in
    ]
    recent = watched[-max(2, len(watched) // _STALE_SHARE) :]
    if len(watched) <= MIN_ITERATIONS or pile.iterations & set(recent):
        return False
    return pile.seen_in - added[-1] > 2 * median([after - before for before, after in pairwise(added)] or [1])


def _is_on_host_by_design(model: MemoryModel, pile: Pile) -> bool:
    """Whether tensors were moved off the device that computes, on purpose."""
    device = device_of(model, pile.main.storages[0] if pile.main.storages else None)
    if device != "cpu":
        return False
    return any(name != "cpu" for name in model.devices) or moves_to_host(pile.stored, pile.made_at)


def _is_working_state(model: MemoryModel, pile: Pile) -> bool:
    """Whether tensors of a forward go into the next (keys and values of the tokens so far)."""
    made = [storage for storage in pile.storages_in(model) if storage.birth_phase is Phase.FORWARD]
    if 2 * len(made) <= len(pile.storages_in(model)):
        return False  # not what a model made
    return reads_what_it_stores(pile.stored, pile.holder.name)


def emptied(model: MemoryModel, pile: Pile) -> bool:
    """Whether most of the pile was freed while iterations of its kind went on."""
    stored = pile.storages_in(model)
    freed = [storage for storage in stored if storage.death_iteration is not None]
    if len(freed) * 2 < len(stored) or not freed:
        return False
    last_freed = max(storage.death_iteration or 0 for storage in freed)
    kinds = {model.iterations[index].kind for index in pile.iterations}
    return any(iteration.index > last_freed for iteration in model.iterations if iteration.kind in kinds)

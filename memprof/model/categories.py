"""What each storage is for, decided by ordered passes: the first that matches names the category.

Roles seen by capture come before what the time of birth and death suggests, and a parameter is a
parameter whatever else it is.

Source:
    The approach is that of `torch/profiler/_memory_profiler.py`, torch 2.13.0; the evidence differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from memprof.model.lifetimes import BoolArray, IntArray, Lifetimes
from memprof.model.memory import Category
from memprof.model.schedule import Schedule
from memprof.model.storages import CATEGORIES, NO_CATEGORY
from memprof.record.events import Phase, Role


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """Facts the passes look at, one row per storage."""

    role: IntArray
    birth_phase: IntArray
    same_phase: BoolArray
    """Born and died in the same phase of the same tick."""
    outlived_forward: BoolArray
    """Died after the forward phase it was born in had ended, or never."""

    def has(self, role: Role) -> BoolArray:
        found: BoolArray = self.role & int(role) != 0
        return found

    def born_in(self, *phases: Phase) -> BoolArray:
        return np.isin(self.birth_phase, [int(phase) for phase in phases])


@dataclass(frozen=True, slots=True)
class CategoryPass:
    """One reason to give a storage a category."""

    category: Category
    why: str
    matches: Callable[[_Evidence], BoolArray]


PASSES: tuple[CategoryPass, ...] = (
    CategoryPass(
        Category.PARAMETER,
        "a module holds it as parameter or buffer, or an optimizer steps it",
        lambda e: e.has(Role.PARAMETER | Role.BUFFER),
    ),
    CategoryPass(Category.OPTIMIZER_STATE, "an optimizer holds it in its state", lambda e: e.has(Role.OPTIMIZER_STATE)),
    CategoryPass(Category.GRADIENT, "it is the `.grad` of a tensor", lambda e: e.has(Role.GRADIENT)),
    CategoryPass(
        Category.INPUT,
        "it was passed to a root module and made outside forward and backward",
        lambda e: e.has(Role.INPUT) & ~e.born_in(Phase.FORWARD, Phase.BACKWARD),
    ),
    CategoryPass(
        Category.ACTIVATION,
        "an autograd graph saved it, or a root module returned it",
        lambda e: e.has(Role.SAVED | Role.OUTPUT),
    ),
    CategoryPass(
        Category.OPTIMIZER_STATE,
        "it was made during an optimizer step and outlived the step",
        lambda e: e.born_in(Phase.OPTIMIZER) & ~e.same_phase,
    ),
    CategoryPass(
        Category.ACTIVATION,
        "it was made in a forward and outlived that forward",
        lambda e: e.born_in(Phase.FORWARD) & e.outlived_forward,
    ),
    CategoryPass(
        Category.TEMPORARY,
        "it was made and freed within one forward or one optimizer step",
        lambda e: e.born_in(Phase.FORWARD, Phase.OPTIMIZER) & e.same_phase,
    ),
    CategoryPass(
        Category.AUTOGRAD_DETAIL,
        "it was made in backward and is no gradient",
        lambda e: e.born_in(Phase.BACKWARD),
    ),
)


def categorise(lifetimes: Lifetimes, schedule: Schedule) -> IntArray:
    """Give every storage a category.

    Args:
        lifetimes: Storages of the run.
        schedule: When forward phases ended.

    Returns:
        Index into `memprof.model.storages.CATEGORIES` per storage.
    """
    evidence = _evidence(lifetimes, schedule)
    category = np.full(len(lifetimes), NO_CATEGORY, np.int64)
    open_rows = np.ones(len(lifetimes), np.bool_)
    for category_pass in PASSES:
        matched = open_rows & category_pass.matches(evidence)
        category[matched] = CATEGORIES.index(category_pass.category)
        open_rows &= ~matched
    return category


def _evidence(lifetimes: Lifetimes, schedule: Schedule) -> _Evidence:
    same_phase = (
        lifetimes.died
        & (lifetimes.birth_tick == lifetimes.death_tick)
        & (lifetimes.birth_phase == lifetimes.death_phase)
    )
    # One tick can hold several forwards (a GAN, two towers): the one that ended first after the birth
    # is the one it was born in.
    ends = _forward_ends(schedule)
    place = np.searchsorted(ends, lifetimes.birth_ns, side="left")
    end_ns = np.append(ends, np.iinfo(np.int64).max)[place]
    return _Evidence(
        role=lifetimes.role,
        birth_phase=lifetimes.birth_phase,
        same_phase=same_phase,
        outlived_forward=~same_phase | (lifetimes.death_ns > end_ns),
    )


def _forward_ends(schedule: Schedule) -> IntArray:
    times = {
        sample.time_ns
        for tick in schedule.ticks
        for sample in tick.samples
        if sample.ends and sample.phase == Phase.FORWARD
    }
    return np.array(sorted(times), np.int64)

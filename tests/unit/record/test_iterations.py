"""Grouping ticks into iterations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memprof.record.events import Tick, TickFlag
from memprof.record.iterations import Iteration, group

F, B, S, E, X = TickFlag.FORWARD, TickFlag.BACKWARD, TickFlag.OPTIMIZER_STEP, TickFlag.EXPLICIT, TickFlag.FINAL
NOTHING = TickFlag(0)
COMPUTES = F | B | S


def ticks(*flags: TickFlag, consumed: dict[int, tuple[int, ...]] | None = None) -> list[Tick]:
    used = consumed or {}
    return [Tick(i, 10 * i, 10 * i + 9, flag, consumed=used.get(i, ())) for i, flag in enumerate(flags)]


def shape(iterations: list[Iteration]) -> list[tuple[str, int, int]]:
    return [(item.kind, item.first_tick, item.last_tick) for item in iterations]


TRAIN = F | B | S


@pytest.mark.parametrize(
    ("name", "made", "expected"),
    [
        ("nothing", [], []),
        ("plain loop", ticks(NOTHING, TRAIN, TRAIN), [("other", 0, 0), ("train", 1, 1), ("train", 2, 2)]),
        (
            "accumulation over three",
            ticks(F | B, F | B, TRAIN, F | B, F | B, TRAIN),
            [("train", 0, 2), ("train", 3, 5)],
        ),
        (
            "RNN cell called in a loop, one backward at the end",
            ticks(F, F, F | B | S, F, F, F | B | S, consumed={2: (0, 1, 2), 5: (3, 4, 5)}),
            [("train", 0, 2), ("train", 3, 5)],
        ),
        (
            "accumulation with validation between the steps",
            ticks(F | B, TRAIN, F, F, F | B, TRAIN),
            [("train", 0, 1), ("evaluate", 2, 2), ("evaluate", 3, 3), ("train", 4, 5)],
        ),
        (
            "GAN whose two steps fall into one tick",
            ticks(TRAIN, TRAIN, consumed={0: (0,), 1: (1,)}),
            [("train", 0, 0), ("train", 1, 1)],
        ),
        (
            "evaluation before an RNN's first tick is not part of it",
            ticks(F, F, F, F | B | S, consumed={3: (1, 2, 3)}),
            [("evaluate", 0, 0), ("train", 1, 3)],
        ),
        ("evaluation alone", ticks(NOTHING, F, F), [("other", 0, 0), ("evaluate", 1, 1), ("evaluate", 2, 2)]),
        ("a step alone", ticks(S), [("train", 0, 0)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_iterations_of(name: str, made: list[Tick], expected: list[tuple[str, int, int]]) -> None:
    assert shape(group(made, has_optimizer=True)) == expected


def test_a_backward_between_is_joined_to_the_step_after_it() -> None:
    made = ticks(TRAIN, F | B, F, TRAIN)
    assert shape(group(made, has_optimizer=True)) == [("train", 0, 0), ("train", 1, 3)]


def test_a_graph_used_by_its_own_tick_only_joins_nothing() -> None:
    made = ticks(F, TRAIN, consumed={1: (1,)})
    assert shape(group(made, has_optimizer=True)) == [("evaluate", 0, 0), ("train", 1, 1)]


def test_without_an_optimizer_each_backward_is_an_iteration() -> None:
    made = ticks(F | B, F | B, F)
    assert shape(group(made, has_optimizer=False)) == [("train", 0, 0), ("train", 1, 1), ("evaluate", 2, 2)]


def test_marks_of_the_user_win_over_steps() -> None:
    made = ticks(TRAIN, TRAIN | E, F, TRAIN | E, NOTHING)
    assert shape(group(made, has_optimizer=True)) == [("train", 0, 1), ("train", 2, 3), ("other", 4, 4)]


def test_an_iteration_cut_off_by_the_end_is_not_complete() -> None:
    whole, cut = group(ticks(TRAIN, F | B | X), has_optimizer=True)
    assert (whole.complete, cut.complete) == (True, False)


def test_a_thousand_backwards_without_a_step_are_not_accumulation() -> None:
    made = ticks(*[F | B] * 1500)
    found = group(made, has_optimizer=True)
    assert len(found) == 1500
    assert {item.kind for item in found} == {"train"}


def test_tracked_only_where_every_tick_is() -> None:
    tracked, half = group(
        ticks(*(flags | TickFlag.TRACKED for flags in (F | B, TRAIN, F | B)), TRAIN), has_optimizer=True
    )
    assert (tracked.tracked, half.tracked) == (True, False)


def test_times_and_epoch_come_from_the_ends_of_the_range() -> None:
    made = [Tick(0, 5, 6, F | B, epoch=2), Tick(1, 7, 11, TRAIN, epoch=3)]
    (found,) = group(made, has_optimizer=True)
    assert (found.start_ns, found.end_ns, found.epoch) == (5, 11, 2)


@st.composite
def any_ticks(draw: st.DrawFn) -> list[Tick]:
    flags = draw(st.lists(st.sampled_from([NOTHING, F, F | B, TRAIN, S, B, F | E, TRAIN | E]), max_size=25))
    if not draw(st.booleans()):
        flags = [item & ~E for item in flags]
    consumed = {
        index: tuple(draw(st.lists(st.integers(0, index), max_size=3))) for index, item in enumerate(flags) if item & B
    }
    return ticks(*flags, consumed=consumed)


@given(any_ticks(), st.booleans())
def test_iterations_tile_the_run(made: list[Tick], has_optimizer: bool) -> None:
    found = group(made, has_optimizer=has_optimizer)
    covered = [tick for item in found for tick in range(item.first_tick, item.last_tick + 1)]
    assert covered == [tick.index for tick in made]
    assert [item.index for item in found] == list(range(len(found)))
    for item in found:
        inside = [made[tick].flags for tick in range(item.first_tick, item.last_tick + 1)]
        assert (item.kind == "other") == (not any(flags & COMPUTES for flags in inside))
        assert (item.kind == "train") == any(flags & (B | S) for flags in inside)


@given(any_ticks())
def test_a_step_is_never_in_the_middle_of_a_found_iteration(made: list[Tick]) -> None:
    if any(tick.flags & E for tick in made):
        return
    for item in group(made, has_optimizer=True):
        assert not any(made[tick].flags & S for tick in range(item.first_tick, item.last_tick))


def test_a_forward_that_raised_while_training_is_a_train_iteration_cut_off() -> None:
    stopped = F | TickFlag.INTERRUPTED
    found = group(ticks(TRAIN, stopped, TRAIN, stopped | B | S, F), has_optimizer=True)
    assert shape(found) == [("train", 0, 0), ("train", 1, 1), ("train", 2, 2), ("train", 3, 3), ("evaluate", 4, 4)]
    assert [item.complete for item in found] == [True, False, True, True, True]

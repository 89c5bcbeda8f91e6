"""Ticks from a made-up sequence of events, and when storages are watched."""

from __future__ import annotations

import pytest

from memprof.capture import ticks
from memprof.capture.counters import Counter
from memprof.capture.ticks import TickClock
from memprof.capture.windows import Level, WatchPlan
from memprof.record.events import Phase, Tick, TickFlag
from memprof.record.iterations import Iteration, group
from memprof.record.schema import NONE

F, B, S = TickFlag.FORWARD, TickFlag.BACKWARD, TickFlag.OPTIMIZER_STEP


class Loader:
    """Stands for the iterator of a `DataLoader`."""


class Story:
    """A clock and what it told."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.phases: list[Phase] = []
        self.clock = TickClock(self.ticks.append, self.phases.append)

    def forward(self, site: int) -> None:
        self.clock.at_call(site)
        self.clock.flags |= F
        self.clock.enter(Phase.FORWARD)

    def backward(self) -> None:
        self.clock.flags |= B
        self.clock.enter(Phase.BACKWARD)
        self.clock.enter(Phase.OTHER)

    def optimizer(self, *, again: bool = False) -> None:
        if again and self.clock.flags & S:
            self.clock.at_optimizer()
        self.clock.enter(Phase.OPTIMIZER)
        self.clock.flags |= S
        self.clock.enter(Phase.OTHER)

    def train(self, site: int = 1, *, again: bool = False) -> None:
        self.forward(site)
        self.backward()
        self.optimizer(again=again)

    def batch(self, loader: object, *, exhausted: bool = False) -> None:
        self.clock.at_batch_wanted(loader)
        self.clock.at_batch(loader, exhausted=exhausted)

    @property
    def flags(self) -> list[TickFlag]:
        return [tick.flags for tick in self.ticks]


def test_a_loop_turns_where_the_same_call_comes_again() -> None:
    story = Story()
    for _ in range(3):
        story.train()
    story.clock.flags |= TickFlag.FINAL
    story.clock.turn()
    assert story.flags == [TickFlag(0), F | B | S, F | B | S, F | B | S | TickFlag.FINAL]
    assert [tick.index for tick in story.ticks] == [0, 1, 2, 3]


def test_two_calls_from_two_lines_are_one_tick() -> None:
    story = Story()
    for _ in range(2):
        story.forward(1)
        story.train(2)
    story.clock.turn()
    assert story.flags == [TickFlag(0), F | B | S, F | B | S]


def test_a_loader_drives_its_loop() -> None:
    story, loader = Story(), Loader()
    story.batch(loader)
    story.train()
    for _ in range(2):
        story.batch(loader)
        for _ in range(4):  # one line, four calls a batch
            story.forward(1)
        story.backward()
    story.batch(loader, exhausted=True)
    assert story.flags == [TickFlag(0), *(item | TickFlag.BATCH for item in (F | B | S, F | B, F | B))]


def test_a_loader_that_nobody_asks_any_more_drives_nothing() -> None:
    story, loader = Story(), Loader()
    for _ in range(3):
        story.batch(loader)
    for _ in range(200):
        story.train(again=True)
    turned = len(story.ticks)
    assert turned > 100
    for _ in range(2):  # it is asked again
        story.batch(loader)
        for _ in range(4):
            story.train(again=True)
    assert len(story.ticks) == turned + 2


def test_a_batch_wanted_before_anything_was_computed_ends_nothing() -> None:
    story, loader = Story(), Loader()
    story.batch(loader)
    for _ in range(3):
        story.batch(loader)
    assert len(story.ticks) == 1


def test_epochs_are_counted_by_loops_over_loaders() -> None:
    story = Story()
    for _ in range(2):
        loader = Loader()
        for _ in range(2):
            story.batch(loader)
            story.train()
        story.batch(loader, exhausted=True)
    story.clock.turn()
    assert [tick.epoch for tick in story.ticks if tick.flags & F] == [1, 1, 2, 2]


def test_after_a_mark_nothing_else_turns() -> None:
    story, loader = Story(), Loader()
    story.train()
    story.clock.at_step()
    for _ in range(3):
        story.batch(loader)
        story.train()
    story.clock.at_step()
    assert [bool(tick.flags & TickFlag.EXPLICIT) for tick in story.ticks] == [False, True, True]


def test_an_iteration_of_the_user_that_is_very_long_is_several_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "_MOST_NUMBERS", 800)
    story = Story()
    story.clock.read_from((Counter("cpu", "made up", lambda: (0, NONE, NONE, NONE)),), lambda _: 0)
    story.clock.at_step()
    for _ in range(100):
        story.train()
    story.clock.at_step()
    assert 5 < len(story.ticks) < 20
    assert [len(run) for run in map(_ticks_of, group(story.ticks, has_optimizer=True))] == [1, len(story.ticks) - 1]


def _ticks_of(iteration: Iteration) -> range:
    return range(iteration.first_tick, iteration.last_tick + 1)


def test_nothing_turns_inside_a_backward_or_an_optimizer() -> None:
    story = Story()
    story.train()
    count = len(story.ticks)
    for phase in (Phase.BACKWARD, Phase.OPTIMIZER):
        story.clock.enter(phase)
        story.clock.at_call(1)
        story.clock.at_batch_wanted(Loader())
        assert len(story.ticks) == count


def test_the_hook_of_a_graph_reports_to_the_tick_that_uses_it() -> None:
    story = Story()
    story.forward(1)
    told: list[str] = []
    first, made_in = story.clock.consumer(lambda: told.append("first")), story.clock.index
    story.forward(1)
    second = story.clock.consumer(lambda: told.append("second"))
    first(None)
    second(None)
    assert told == ["first", "second"]
    story.clock.turn()
    assert story.ticks[-1].consumed == (made_in, made_in + 1)
    story.clock.turn()
    assert story.ticks[-1].consumed == ()


def test_counters_are_read_on_both_sides_of_a_phase() -> None:
    story = Story()
    values = iter(range(100, 200))
    counter = Counter("cpu", "fake", lambda: (next(values), NONE, NONE, NONE))
    story.clock.read_from((counter,), lambda device: 0)
    story.clock.enter(Phase.FORWARD)
    story.clock.enter(Phase.FORWARD)  # no change
    story.clock.turn()
    assert next(values) == 104  # each change of phase once, both ends of a tick once
    assert story.phases == [Phase.FORWARD, Phase.OTHER]


def test_counters_that_were_read_for_a_new_tick_are_not_read_again_for_its_first_phase() -> None:
    story = Story()
    values = iter(range(100, 200))
    counter = Counter("cpu", "fake", lambda: (next(values), NONE, NONE, NONE))
    story.clock.read_from((counter,), lambda device: 0)
    assert story.clock.at_call(1)  # begins a tick
    story.clock.enter(Phase.FORWARD, just_read=True)
    assert story.clock.allocated_bytes == 101  # read at the end of the last tick and at the start of this one
    assert not story.clock.at_call(2)
    packed = story.clock.packed_samples().tolist()
    assert [(packed[at + 1], packed[at + 4]) for at in range(0, len(packed), 8)] == [
        (Phase.OTHER, 101),
        (Phase.OTHER, 101),
        (Phase.FORWARD, 101),
    ]
    assert next(values) == 102


def test_forward_bytes_are_unknown_until_counted_and_never_negative() -> None:
    story = Story()
    story.clock.turn()
    story.clock.add_forward_bytes(-5)
    story.clock.turn()
    story.clock.add_forward_bytes(5)
    story.clock.add_forward_bytes(6)
    story.clock.turn()
    assert [tick.forward_bytes for tick in story.ticks] == [None, 0, 11]


# ---- when storages are watched ---------------------------------------------------------------


def run(plan: WatchPlan, count: int, *, growth: int = 0, start: int = 0) -> list[bool]:
    """Feed iterations of one tick; whether each was watched."""
    watched = []
    for index in range(start, start + count):
        watched.append(plan.watching)
        plan.tick_ended(Tick(index, 0, 1, F | B | S), 10_000_000 + growth * index, iteration_ended=True)
    return watched


def test_level_steps_never_watches() -> None:
    plan = WatchPlan(Level.STEPS)
    plan.news()
    assert not any(run(plan, 50, growth=1 << 20))
    assert not plan.census_due


def test_level_tensors_always_watches() -> None:
    plan = WatchPlan(Level.TENSORS)
    assert all(run(plan, 50))


def test_level_auto_watches_the_first_iterations_of_a_clean_run_only() -> None:
    plan = WatchPlan(Level.AUTO)
    watched = run(plan, 500)
    assert 2 <= sum(watched) <= 8
    assert not any(watched[8:])


def test_level_auto_comes_back_at_growing_distances_while_memory_rises() -> None:
    watched = run(WatchPlan(Level.AUTO), 500, growth=1 << 20)
    later = [index for index, item in enumerate(watched) if item and index > 8]
    assert later
    assert sum(watched) < 50
    starts = [index for index in later if index - 1 not in later]
    distances = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    assert distances == sorted(distances)


def test_level_auto_comes_back_after_a_suspicious_census() -> None:
    plan = WatchPlan(Level.AUTO)
    run(plan, 4)
    plan.suspect(True)
    assert any(run(plan, 40, start=4))


def test_level_auto_watches_a_long_accumulation_to_its_step() -> None:
    plan = WatchPlan(Level.AUTO)
    watched = []
    for index in range(400):
        watched.append(plan.watching)
        steps = index % 100 == 99
        plan.tick_ended(Tick(index, 0, 1, F | B | (S if steps else 0)), 10_000_000, iteration_ended=steps)
    assert all(watched[:100])
    assert not any(watched[100:])


def test_level_auto_does_not_wait_for_a_step_for_ever() -> None:
    plan = WatchPlan(Level.AUTO)
    for index in range(400):
        plan.tick_ended(Tick(index, 0, 1, F | B), 10_000_000, iteration_ended=False)
    assert not plan.watching


def test_level_auto_watches_what_is_new() -> None:
    plan = WatchPlan(Level.AUTO)
    run(plan, 30)
    assert not plan.watching
    plan.news()
    assert run(plan, 10, start=30).count(True) >= 2


def stairs(period: int, *, count: int, height: int = 1 << 20, noise: int = 0) -> tuple[list[int], set[int]]:
    """Feed iterations of which each `period`-th leaves something behind: those that were watched, and that rose."""
    plan = WatchPlan(Level.AUTO)
    level, watched, rose = 10_000_000, [], set()
    for index in range(count):
        if index % period == period - 1:
            level += height
            rose.add(index)
        if plan.watching:
            watched.append(index)
        plan.tick_ended(Tick(index, 0, 1, F | B | S), level + noise * (index % 2), iteration_ended=True)
    return watched, rose


@pytest.mark.parametrize("period", [1, 2, 3, 5])
def test_level_auto_comes_back_where_some_iterations_leave_something(period: int) -> None:
    watched, _ = stairs(period, count=300, noise=1 << 16)
    assert [index for index in watched if index > 8]
    assert len(watched) < 60


@pytest.mark.parametrize("period", [8, 25, 100])
def test_level_auto_watches_where_rare_growth_comes_again(period: int) -> None:
    watched, rose = stairs(period, count=12 * period)
    assert len(rose & set(watched)) >= 3
    assert len(watched) < 60


def test_level_auto_leaves_memory_alone_that_goes_up_and_down() -> None:
    plan = WatchPlan(Level.AUTO)
    for index in range(300):
        plan.tick_ended(Tick(index, 0, 1, F | B | S), 10_000_000 + (index % 5 << 20), iteration_ended=True)
        assert index < 8 or not plan.watching


def epochs(plan: WatchPlan, count: int, *, growth: int, loops: int = 1) -> list[bool]:
    """Feed epochs of some loops of 20 iterations, with growth after the last of each; whether it was watched."""
    watched = []
    index, level = 0, 10_000_000
    for _ in range(count):
        for _ in range(loops):
            run(plan, 20, start=index)
            index += 20
            watching = plan.watching
            watching |= plan.loop_ended(level)
        watched.append(watching)
        level += growth
    return watched


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_level_auto_watches_what_is_done_at_the_end_of_an_epoch_while_memory_rises(loops: int) -> None:
    watched = epochs(WatchPlan(Level.AUTO), 24, growth=1 << 20, loops=loops)
    assert watched[1:].count(True) >= 3
    assert not all(watched[8:])


def test_level_auto_leaves_epochs_alone_that_are_steady() -> None:
    assert not any(epochs(WatchPlan(Level.AUTO), 24, growth=0))


@pytest.mark.parametrize("level", [Level.STEPS, Level.BLOCKS, Level.TENSORS])
def test_other_levels_do_not_look_at_epochs(level: Level) -> None:
    plan = WatchPlan(level)
    assert not any(plan.loop_ended(nbytes << 20) for nbytes in range(8))


def test_without_a_counter_nothing_is_known_of_epochs() -> None:
    plan = WatchPlan(Level.AUTO)
    assert not any(plan.loop_ended(None) for _ in range(8))


@pytest.mark.parametrize("level", [Level.AUTO, Level.TENSORS])
def test_a_census_is_due_while_watching_only_and_at_least_twice(level: Level) -> None:
    plan = WatchPlan(level)
    due = []
    for index in range(200):
        if plan.census_due:
            assert plan.watching
            due.append(index)
        run(plan, 1, start=index)
    assert 2 <= len(due) <= 20
    assert due[0] >= 1

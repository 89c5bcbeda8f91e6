"""Trends of devices, growth of lines, and robust slopes."""

from __future__ import annotations

import pytest

from memprof.model.build import build
from memprof.model.growth import LineGrowth, line_growth
from memprof.model.memory import MemoryModel, Source
from memprof.model.slope import MAX_POINTS, theil_sen
from memprof.record.events import Location, Phase, Role, TickFlag
from tests.unit.model.fake_recording import LINE, FakeRecording

LEAK_LINE = Location("train.py", 41, "train")
EVALUATE_FLAGS = TickFlag.FORWARD | TickFlag.EVAL_MODE


def _train(recording: FakeRecording, steps: int, carried: tuple[int, ...] = (), leak: int = 0) -> tuple[int, ...]:
    for _ in range(steps):
        carried = recording.step(carried=carried, leak=leak, leak_location=LEAK_LINE)
    return carried


def _leak(model: MemoryModel) -> LineGrowth:
    (found,) = [line for line in line_growth(model) if line.location == LEAK_LINE]
    return found


class TestTheilSen:
    def test_a_line_has_its_slope(self) -> None:
        assert theil_sen([0, 1, 2, 5], [1, 4, 7, 16]) == 3.0

    def test_outliers_do_not_bend_it(self) -> None:
        assert theil_sen(range(9), [0, 2, 4, 600, 8, 10, 12, -50, 16]) == 2.0

    def test_one_point_has_no_slope(self) -> None:
        assert theil_sen([1], [5]) == theil_sen([], []) == 0.0

    def test_long_series_are_thinned_out(self) -> None:
        x = list(range(MAX_POINTS * 50))

        assert theil_sen(x, [2 * value for value in x]) == 2.0

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(ValueError, match="2 positions but 1 values"):
            theil_sen([1, 2], [1])


class TestTrend:
    def test_growth_in_all_is_of_the_iterations_that_grow(self, recording: FakeRecording) -> None:
        carried: tuple[int, ...] = ()
        for _ in range(6):
            carried = _train(recording, 1, carried, leak=7)
            for _ in range(3):
                recording.end_tick(EVALUATE_FLAGS)

        trend = build(recording).trends["cpu"]

        assert trend.bytes_per_iteration == 7.0
        assert trend.last_iteration - trend.first_iteration == 16
        assert trend.grown_bytes == 4 * 7.0

    def test_growth_is_measured_without_the_first_iteration(self, recording: FakeRecording) -> None:
        recording.birth(90_000, role=Role.PARAMETER)
        _train(recording, 6, leak=7)

        trend = build(recording).trends["cpu"]

        assert trend.bytes_per_iteration == 7.0
        assert (trend.first_iteration, trend.last_iteration, trend.points) == (1, 5, 5)
        assert trend.rising_share == 1.0
        assert trend.source is Source.MEASURED

    def test_four_iterations_are_all_used(self, recording: FakeRecording) -> None:
        _train(recording, 4)

        trend = build(recording).trends["cpu"]

        assert (trend.first_iteration, trend.points, trend.rising_share) == (0, 4, 0.0)

    def test_three_iterations_show_no_trend(self, recording: FakeRecording) -> None:
        _train(recording, 3, leak=7)

        assert build(recording).trends == {}

    def test_the_iteration_cut_off_at_the_end_is_left_out(self, recording: FakeRecording) -> None:
        _train(recording, 4)
        recording.phase = Phase.BACKWARD
        recording.birth(10**6)
        recording.end_tick(TickFlag.FORWARD | TickFlag.BACKWARD | TickFlag.FINAL)

        assert build(recording).trends["cpu"].points == 4

    def test_estimated_points_make_an_estimate(self, recording: FakeRecording) -> None:
        carried = _train(recording, 3, leak=7)
        recording.watch(False)
        _train(recording, 3, carried, leak=7)

        trend = build(recording).trends["cpu"]

        assert trend.bytes_per_iteration == 7.0
        assert trend.source is Source.ESTIMATED

    def test_evaluation_is_used_where_training_is_missing(self, recording: FakeRecording) -> None:
        _train(recording, 2)
        for _ in range(5):
            recording.birth(11)
            recording.end_tick(EVALUATE_FLAGS)

        trend = build(recording).trends["cpu"]

        assert (trend.bytes_per_iteration, trend.first_iteration) == (11.0, 3)


class TestLineGrowth:
    def test_a_line_that_leaves_something_behind(self, recording: FakeRecording) -> None:
        recording.birth(90_000, role=Role.PARAMETER, location=LEAK_LINE, op="aten::leak")
        _train(recording, 4, leak=7)

        model = build(recording)

        growth = _leak(model)
        assert growth.survivor_bytes_by_iteration == {0: 0, 1: 7, 2: 14, 3: 21}
        assert growth.rising

    def test_what_is_rebound_each_step_does_not_grow(self, recording: FakeRecording) -> None:
        _train(recording, 5)

        (growth,) = line_growth(build(recording))

        assert growth.location == LINE
        assert set(growth.survivor_bytes_by_iteration.values()) == {0}
        assert not growth.rising

    def test_a_bounded_container_stops_rising(self, recording: FakeRecording) -> None:
        kept: list[int] = []
        for _ in range(12):
            kept.append(recording.birth(10, location=LEAK_LINE))
            if len(kept) > 3:
                recording.death(kept.pop(0))
            recording.end_tick(EVALUATE_FLAGS)

        growth = _leak(build(recording))

        assert not growth.rising
        assert list(growth.survivor_bytes_by_iteration.values()) == [0, 10, 20, *[20] * 9]

    def test_iterations_that_were_not_watched_are_no_steps(self, recording: FakeRecording) -> None:
        carried = _train(recording, 3, leak=7)
        recording.watch(False)
        carried = _train(recording, 20, carried, leak=7)
        recording.watch(True)
        _train(recording, 3, carried, leak=7)

        growth = _leak(build(recording))

        assert list(growth.survivor_bytes_by_iteration) == [0, 1, 2, 23, 24, 25]
        assert growth.rising

    def test_a_leak_in_evaluation_is_followed_over_evaluations(self, recording: FakeRecording) -> None:
        carried: tuple[int, ...] = ()
        for _ in range(4):
            carried = _train(recording, 5, carried)
            recording.birth(13, location=LEAK_LINE)
            recording.end_tick(EVALUATE_FLAGS)

        growth = _leak(build(recording))

        assert growth.survivor_bytes_by_iteration == {5: 0, 11: 13, 17: 26, 23: 39}
        assert growth.rising

    def test_a_leak_in_both_is_followed_over_both(self, recording: FakeRecording) -> None:
        for flags in (EVALUATE_FLAGS, TickFlag.OPTIMIZER_STEP) * 3:
            recording.birth(13, location=LEAK_LINE)
            recording.end_tick(flags)

        growth = _leak(build(recording))

        assert len(growth.survivor_bytes_by_iteration) == 6

    @pytest.mark.parametrize("role", [Role.PARAMETER, Role.OPTIMIZER_STATE, Role.GRADIENT])
    def test_what_is_kept_on_purpose_is_left_out(self, recording: FakeRecording, role: Role) -> None:
        for _ in range(4):
            recording.birth(13, role=role, location=LEAK_LINE)
            recording.end_tick()

        assert line_growth(build(recording)) == []

    def test_existing_and_incomplete_do_not_count(self, recording: FakeRecording) -> None:
        recording.birth(500, op="existing", location=LEAK_LINE)
        recording.end_tick(TickFlag.FORWARD | TickFlag.FINAL)

        assert line_growth(build(recording)) == []

    def test_no_watched_iteration(self, recording: FakeRecording) -> None:
        assert line_growth(build(recording)) == []

"""Composition over time, thinned out."""

from __future__ import annotations

from memprof.model.build import build
from memprof.model.composition import MAX_POINTS
from memprof.model.storages import CATEGORY_NAMES
from memprof.record.events import Phase, Role
from tests.unit.model.fake_recording import FakeRecording


def test_a_short_run_keeps_every_moment(recording: FakeRecording) -> None:
    recording.birth(50, role=Role.PARAMETER)
    carried = recording.step()
    recording.step(carried=carried)

    model = build(recording)

    points = model.composition["cpu"]
    assert max(sum(point.by_category.values()) for point in points) == model.peaks["cpu"].allocated_bytes
    assert [point.time_ns for point in points] == sorted(point.time_ns for point in points)
    assert {point.iteration for point in points} == {0, 1}
    assert {point.phase for point in points} == set(Phase)
    assert all(tuple(point.by_category) == CATEGORY_NAMES for point in points)
    assert all(nbytes >= 0 for point in points for nbytes in point.by_category.values())


def test_only_watched_time_is_shown(recording: FakeRecording) -> None:
    carried = recording.step()
    recording.watch(False)
    carried = recording.step(carried=carried)
    recording.watch(True)
    recording.step(carried=carried)

    assert {point.iteration for point in build(recording).composition["cpu"]} == {0, 2}


def test_a_long_run_keeps_peak_and_boundaries(recording: FakeRecording) -> None:
    carried: tuple[int, ...] = ()
    for number in range(20):
        recording.sample(Phase.FORWARD, ends=False)
        for _ in range(150):
            recording.death(recording.birth(1))
        carried = recording.step(carried=carried, activation=5000 if number == 11 else 100)

    model = build(recording)

    points = model.composition["cpu"]
    assert len(recording.birth_rows) + len(recording.death_rows) > MAX_POINTS
    assert MAX_POINTS // 2 < len(points) <= MAX_POINTS
    assert max(sum(point.by_category.values()) for point in points) == model.peaks["cpu"].allocated_bytes
    boundaries = {sample.time_ns for tick in recording.ticks for sample in tick.samples}
    assert boundaries <= {point.time_ns for point in points}


def test_more_boundaries_than_points(recording: FakeRecording) -> None:
    carried: tuple[int, ...] = ()
    for number in range(400):
        carried = recording.step(carried=carried, activation=5000 if number == 211 else 100)

    model = build(recording)

    points = model.composition["cpu"]
    assert len(points) <= MAX_POINTS
    assert max(sum(point.by_category.values()) for point in points) == model.peaks["cpu"].allocated_bytes
    assert {point.iteration for point in points} == set(range(400))

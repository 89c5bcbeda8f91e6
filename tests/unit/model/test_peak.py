"""The peak of a run and what it was made of."""

from __future__ import annotations

from memprof.model.build import build
from memprof.model.memory import Category, Source
from memprof.model.peak import PEAK_LINES
from memprof.record.events import Location, ModuleRef, Phase, Role
from tests.unit.model.fake_recording import LINE, FakeRecording


def test_the_peak_says_when_and_what(recording: FakeRecording) -> None:
    recording.birth(500, role=Role.PARAMETER, name="w")
    carried = recording.step()
    recording.step(carried=carried)

    peak = build(recording).peaks["cpu"]

    assert (peak.allocated_bytes, peak.source) == (675, Source.MEASURED)
    # Both steps get that high; the first to do so is named.
    assert (peak.iteration, peak.phase) == (0, Phase.BACKWARD)
    birth = next(row for row in recording.birth_rows if row.phase is Phase.BACKWARD and row.nbytes == 5)
    assert peak.time_ns == birth.time_ns
    assert peak.by_category is not None
    assert sum(peak.by_category.values()) == peak.allocated_bytes
    assert list(peak.by_category) == ["PARAMETER", "ACTIVATION", "GRADIENT", "INPUT", "AUTOGRAD_DETAIL"]


def test_set_up_can_be_the_peak(recording: FakeRecording) -> None:
    recording.tick = -1
    recording.death(recording.birth(10_000))
    recording.tick = 0
    recording.step()

    peak = build(recording).peaks["cpu"]

    assert (peak.allocated_bytes, peak.iteration, peak.source) == (10_000, None, Source.MEASURED)


def test_an_unwatched_peak_is_explained_by_the_highest_watched_moment(recording: FakeRecording) -> None:
    carried = recording.step()
    recording.watch(False)
    recording.step(carried=carried, activation=5000)

    peak = build(recording).peaks["cpu"]

    assert (peak.allocated_bytes, peak.iteration, peak.source) == (5050, 1, Source.ESTIMATED)
    assert peak.by_category is not None
    assert peak.by_category["ACTIVATION"] == 120
    assert sum(peak.by_category.values()) == 175  # what the rest was is not known
    assert "uncategorised" not in peak.by_category


def test_an_estimate_within_its_own_error_does_not_replace_a_measured_peak(recording: FakeRecording) -> None:
    carried = recording.step(activation=10_000)
    recording.watch(False)
    recording.step(carried=carried, activation=10_050)

    peak = build(recording).peaks["cpu"]

    assert (peak.source, peak.iteration) == (Source.MEASURED, 0)


def test_what_the_allocator_adds_is_uncategorised(cuda_recording: FakeRecording) -> None:
    cuda_recording.step()

    peak = build(cuda_recording).peaks["cuda:0"]

    assert peak.by_category is not None
    assert peak.by_category["uncategorised"] == 4096
    assert sum(peak.by_category.values()) == peak.allocated_bytes
    assert peak.reserved_bytes == 1 << 21


def test_lines_are_grouped_by_location_category_and_module(recording: FakeRecording) -> None:
    first, second = ModuleRef("a", "Linear"), ModuleRef("b", "Linear")
    recording.phase = Phase.FORWARD
    recording.birth(10, module=first)
    recording.birth(15, module=first)
    recording.birth(20, module=second)
    recording.birth(5, module=second, role=Role.PARAMETER)
    recording.birth(0, location=None)
    recording.end_tick()

    lines = build(recording).peaks["cpu"].lines

    assert [(line.location, line.nbytes, line.count, line.category, line.module) for line in lines] == [
        (LINE, 25, 2, Category.ACTIVATION, first),
        (LINE, 20, 1, Category.ACTIVATION, second),
        (LINE, 5, 1, Category.PARAMETER, second),
    ]


def test_only_the_largest_lines_are_named(recording: FakeRecording) -> None:
    for number in range(30):
        recording.birth(100 + number, location=Location("train.py", number, "f"))
    recording.end_tick()

    lines = build(recording).peaks["cpu"].lines

    assert len(lines) == PEAK_LINES
    assert [line.nbytes for line in lines] == [129 - number for number in range(PEAK_LINES)]

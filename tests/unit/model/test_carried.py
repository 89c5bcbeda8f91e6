"""What the previous iteration leaves alive during the next forward."""

from __future__ import annotations

import dataclasses

import pytest

from memprof.model.build import build
from memprof.model.carried import CarriedOver, carried_over
from memprof.record.events import Phase, Role
from tests.unit.model.fake_recording import FakeRecording


def test_the_previous_output_is_carried_over(recording: FakeRecording) -> None:
    carried: tuple[int, ...] = ()
    outputs = []
    for _ in range(3):
        carried = recording.step(carried=carried)
        outputs.append(carried)

    found = carried_over(build(recording))

    assert found == [CarriedOver(1, "cpu", 20, outputs[0]), CarriedOver(2, "cpu", 20, outputs[1])]


def test_a_model_written_by_hand_will_do(recording: FakeRecording) -> None:
    recording.step(carried=recording.step())
    model = build(recording)

    by_hand = dataclasses.replace(model, storages=dict(model.storages))

    assert carried_over(by_hand) == carried_over(model) != []


def test_what_was_deleted_before_the_forward_is_not(recording: FakeRecording) -> None:
    for _ in range(3):
        output = recording.step()
        recording.death(*output)

    assert carried_over(build(recording)) == []


def test_what_dies_before_the_forward_is_at_its_highest_is_not(recording: FakeRecording) -> None:
    output = recording.step()
    recording.sample(Phase.FORWARD, ends=False)
    recording.death(recording.birth(1))
    recording.death(*output)
    recording.step()

    assert carried_over(build(recording)) == []


def test_what_is_kept_for_longer_is_not(recording: FakeRecording) -> None:
    output = recording.step()
    carried = recording.step()
    for _ in range(3):
        carried = recording.step(carried=carried)
    recording.step(carried=(*carried, *output))

    assert all(output[0] not in entry.storages for entry in carried_over(build(recording)))


def test_what_lives_through_the_next_iteration_counts_twice(recording: FakeRecording) -> None:
    first = recording.step()
    second = recording.step()
    recording.step(carried=(*first, *second))

    found = {entry.iteration: entry.storages for entry in carried_over(build(recording))}

    assert found == {1: first, 2: (*first, *second)}


@pytest.mark.parametrize("role", [Role.PARAMETER, Role.GRADIENT, Role.OPTIMIZER_STATE, Role.INPUT])
def test_other_categories_are_not_counted(recording: FakeRecording, role: Role) -> None:
    recording.step()
    kept = recording.birth(50, role=role)
    recording.end_tick()
    recording.step(carried=(kept,))

    assert carried_over(build(recording)) == []


def test_an_iteration_without_a_forward(recording: FakeRecording) -> None:
    output = recording.step()
    recording.death(*output)
    recording.end_tick()

    assert carried_over(build(recording)) == []


def test_iterations_that_were_not_watched_are_left_out(recording: FakeRecording) -> None:
    output = recording.step()
    recording.watch(False)
    recording.step(carried=output)

    assert carried_over(build(recording)) == []

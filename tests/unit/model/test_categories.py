"""What a storage is for."""

from __future__ import annotations

import pytest

from memprof.model.build import build
from memprof.model.categories import PASSES
from memprof.model.memory import Category
from memprof.record.events import Phase, Role
from tests.unit.model.fake_recording import FakeRecording


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(
    ("role", "category"),
    [
        (Role.PARAMETER, Category.PARAMETER),
        (Role.BUFFER | Role.SAVED, Category.PARAMETER),
        (Role.PARAMETER | Role.OPTIMIZER_STATE | Role.GRADIENT | Role.OUTPUT, Category.PARAMETER),
        (Role.OPTIMIZER_STATE | Role.SAVED, Category.OPTIMIZER_STATE),
        (Role.GRADIENT | Role.INPUT, Category.GRADIENT),
        (Role.SAVED, Category.ACTIVATION),
        (Role.OUTPUT, Category.ACTIVATION),
    ],
)
def test_roles_decide_before_phases(recording: FakeRecording, phase: Phase, role: Role, category: Category) -> None:
    recording.sample(phase, ends=False)
    storage = recording.birth(8, role=role)
    recording.end_tick()

    assert build(recording).storages[storage].category is category


@pytest.mark.parametrize(
    ("phase", "category"),
    [
        (Phase.OTHER, Category.INPUT),
        (Phase.OPTIMIZER, Category.INPUT),
        (Phase.FORWARD, Category.ACTIVATION),
        (Phase.BACKWARD, Category.AUTOGRAD_DETAIL),
    ],
)
def test_an_input_is_made_outside_forward_and_backward(
    recording: FakeRecording, phase: Phase, category: Category
) -> None:
    recording.sample(phase, ends=False)
    storage = recording.birth(8, role=Role.INPUT)
    recording.end_tick()

    assert build(recording).storages[storage].category is category


@pytest.mark.parametrize(
    ("born_in", "freed_in", "category"),
    [
        (Phase.FORWARD, Phase.FORWARD, Category.TEMPORARY),
        (Phase.FORWARD, Phase.BACKWARD, Category.ACTIVATION),
        (Phase.FORWARD, None, Category.ACTIVATION),
        (Phase.OPTIMIZER, Phase.OPTIMIZER, Category.TEMPORARY),
        (Phase.OPTIMIZER, None, Category.OPTIMIZER_STATE),
        (Phase.OPTIMIZER, Phase.OTHER, Category.OPTIMIZER_STATE),
        (Phase.BACKWARD, Phase.BACKWARD, Category.AUTOGRAD_DETAIL),
        (Phase.OTHER, Phase.OTHER, None),
        (Phase.OTHER, None, None),
    ],
)
def test_without_a_role_the_phases_of_birth_and_death_decide(
    recording: FakeRecording, born_in: Phase, freed_in: Phase | None, category: Category | None
) -> None:
    recording.phase = born_in
    storage = recording.birth(8)
    if freed_in is not None:
        recording.phase = freed_in
        recording.death(storage)
    recording.end_tick()

    assert build(recording).storages[storage].category is category


def test_a_storage_of_the_first_forward_freed_in_the_second_is_an_activation(
    recording: FakeRecording,
) -> None:
    recording.sample(Phase.FORWARD, ends=False)
    storage = recording.birth(8)
    recording.sample(Phase.FORWARD, ends=True)
    recording.sample(Phase.FORWARD, ends=False)
    recording.death(storage)
    recording.sample(Phase.FORWARD, ends=True)
    recording.end_tick()

    assert build(recording).storages[storage].category is Category.ACTIVATION


def test_the_same_phase_of_the_next_tick_is_another_phase(recording: FakeRecording) -> None:
    recording.phase = Phase.FORWARD
    storage = recording.birth(8)
    recording.end_tick()
    recording.phase = Phase.FORWARD
    recording.death(storage)
    recording.end_tick()

    assert build(recording).storages[storage].category is Category.ACTIVATION


def test_existing_storages_have_no_category_and_no_iteration_of_birth(recording: FakeRecording) -> None:
    storage = recording.birth(8, op="existing", location=None)
    recording.end_tick()

    found = build(recording).storages[storage]

    assert found.category is None
    assert found.birth_iteration is None


def test_every_category_has_a_pass_that_says_why() -> None:
    assert {category_pass.category for category_pass in PASSES} == set(Category)
    assert all(category_pass.why for category_pass in PASSES)

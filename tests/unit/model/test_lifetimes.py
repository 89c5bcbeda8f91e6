"""Births, deaths and roles joined, and the mapping that shows them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from memprof.model.build import build
from memprof.model.lifetimes import read_lifetimes
from memprof.model.memory import Category, Storage
from memprof.model.storages import StorageTable, table_of
from memprof.record.events import Birth, Death, ModuleRef, Phase, Role, RoleFact
from tests.unit.model.fake_recording import LINE, FakeRecording


def _birth(storage: int, time_ns: int, tick: int = 0, nbytes: int = 8) -> Birth:
    return Birth(storage, time_ns, tick, Phase.FORWARD, nbytes, "float32", "cpu", "aten::mm", LINE, None, None)


def test_a_storage_is_shown_from_birth_to_death(recording: FakeRecording) -> None:
    module = ModuleRef("encoder.0", "Linear")
    recording.sample(Phase.FORWARD, ends=False)
    storage = recording.birth(64, op="aten::relu", module=module, role=Role.SAVED, name="hidden")
    recording.sample(Phase.FORWARD, ends=True)
    recording.death(storage)
    recording.end_tick()

    found = build(recording).storages[storage]

    assert found == Storage(
        id=storage,
        nbytes=64,
        dtype="float32",
        device="cpu",
        op="aten::relu",
        location=LINE,
        forward_location=None,
        module=module,
        birth_ns=2,
        birth_tick=0,
        birth_phase=Phase.FORWARD,
        birth_iteration=0,
        death_ns=4,
        death_tick=0,
        death_phase=Phase.OTHER,
        death_iteration=0,
        role=Role.SAVED,
        name="hidden",
        category=Category.ACTIVATION,
    )
    assert type(found.nbytes) is int
    assert type(found.birth_phase) is Phase


def test_first_birth_and_first_death_count() -> None:
    lifetimes = read_lifetimes(
        [_birth(1, 5, nbytes=10), _birth(2, 6), _birth(1, 7, nbytes=99)],
        [Death(1, 8, 0, Phase.BACKWARD), Death(1, 9, 3, Phase.OTHER)],
        [],
    )

    assert lifetimes.id.tolist() == [1, 2]
    assert lifetimes.nbytes.tolist() == [10, 8]
    assert lifetimes.death_ns[0] == 8
    assert lifetimes.died.tolist() == [True, False]


def test_deaths_and_roles_of_unknown_storages_are_left_out() -> None:
    lifetimes = read_lifetimes([_birth(1, 5)], [Death(9, 6, 0, Phase.OTHER)], [RoleFact(9, Role.INPUT, "x")])

    assert not lifetimes.died.any()
    assert not lifetimes.role.any()


def test_a_death_before_its_birth_is_moved_to_the_birth() -> None:
    lifetimes = read_lifetimes([_birth(1, 5, tick=2)], [Death(1, 3, 1, Phase.OTHER)], [])

    assert (int(lifetimes.death_ns[0]), int(lifetimes.death_tick[0])) == (5, 2)


def test_roles_add_up_and_the_parameters_name_wins() -> None:
    roles = [
        RoleFact(1, Role.SAVED, ""),
        RoleFact(1, Role.GRADIENT, "w.grad"),
        RoleFact(1, Role.PARAMETER, "w"),
        RoleFact(1, Role.INPUT, "x"),
    ]

    lifetimes = read_lifetimes([_birth(1, 5)], [], roles)

    assert Role(int(lifetimes.role[0])) == Role.SAVED | Role.GRADIENT | Role.PARAMETER | Role.INPUT
    assert lifetimes.names[int(lifetimes.name[0])] == "w"


def test_more_births_than_one_chunk() -> None:
    lifetimes = read_lifetimes((_birth(n, n) for n in range(70_000)), [], [])

    assert len(lifetimes) == 70_000


def test_the_mapping_behaves_like_a_dict(recording: FakeRecording) -> None:
    recording.step()
    storages = build(recording).storages

    plain = dict(storages)
    assert list(plain) == list(storages)
    assert list(storages.values()) == list(plain.values())
    assert storages == plain
    assert 1 in storages
    assert 10_000 not in storages
    with pytest.raises(KeyError):
        storages[10_000]
    assert copy.deepcopy(storages) == storages


def test_columns_of_a_mapping_written_by_hand(recording: FakeRecording) -> None:
    carried = recording.step()
    recording.step(carried=carried)
    storages = build(recording).storages
    assert isinstance(storages, StorageTable)

    rebuilt = table_of(dict(storages))

    assert dict(rebuilt) == dict(storages)
    assert np.array_equal(rebuilt.category, storages.category)
    assert table_of(storages) is storages


def test_storages_are_asked_for_many_at_a_time_and_unknown_ids_are_left_out() -> None:
    table = table_of(build(_recorded()).storages)
    first, second, *_ = table
    assert [item.id for item in table.known(iter([second, -7, first, second]))] == [second, first, second]
    assert table.known([]) == []
    assert first in table
    assert -7 not in table
    assert None not in table


def _recorded() -> FakeRecording:
    recording = FakeRecording()
    recording.birth(8)
    recording.birth(16)
    recording.end_tick()
    return recording

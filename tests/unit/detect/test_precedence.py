"""One code for one problem."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.detect.finding import Finding, Kind, Remedy, Severity
from memprof.detect.precedence import without_explained
from memprof.model.build import build
from memprof.model.memory import Source
from memprof.record.events import Role
from tests.unit.model.fake_recording import LINE, FakeRecording


def said(code: str, kind: Kind, slug: str, *frees: int) -> Finding:
    """A finding whose one remedy frees storages."""
    return Finding(
        code=code,
        name="some-rule",
        kind=kind,
        severity=Severity.WARNING,
        location=LINE,
        device="cpu",
        bytes=4 << 20,
        bytes_per_iteration=None,
        source=Source.MEASURED,
        message="",
        holder=None,
        remedies=(Remedy(slug, "", frees=frees),),
    )


@pytest.mark.parametrize(("with_gradients", "told"), [(True, ["MP113"]), (False, ["MP113", "MP207"])])
def test_gradients_of_models_that_stay_behind_are_told_with_these(with_gradients: bool, told: list[str]) -> None:
    fake = FakeRecording(counter_noise=0)
    weights = [fake.birth(1 << 20, op="aten::empty") for _ in range(4)]
    gradients = [fake.birth(1 << 20, op="aten::mm", role=Role.GRADIENT) for _ in range(4)]
    fake.end_tick()
    kept = said("MP113", Kind.LEAK, "bound_container", *weights[:3], *(gradients[:3] if with_gradients else ()))
    old = said("MP207", Kind.WASTE, "zero_grad", *gradients)

    assert [finding.code for finding in without_explained(build(fake), [kept, old])] == told


@pytest.mark.parametrize(("evidence", "told"), [({"emptied": True}, ["MP205"]), ({}, ["MP103", "MP205"])])
def test_outputs_that_are_joined_are_told_once_unless_their_list_only_grows(
    evidence: dict[str, object], told: list[str]
) -> None:
    fake = FakeRecording(counter_noise=0)
    parts = [fake.birth(1 << 20, op="aten::mm") for _ in range(4)]
    joined = fake.birth(4 << 20, op="aten::cat")
    fake.end_tick()
    pile = Finding(
        code="MP103",
        name="tensors-kept-in-container",
        kind=Kind.LEAK,
        severity=Severity.ERROR,
        location=LINE,
        device="cpu",
        bytes=4 << 20,
        bytes_per_iteration=1 << 20,
        source=Source.MEASURED,
        message="",
        holder=None,
        remedies=(Remedy("del", "", frees=tuple(parts)),),
        evidence=evidence,
    )
    whole = replace(
        pile,
        code="MP205",
        kind=Kind.WASTE,
        remedies=(Remedy("reduce_per_batch", "", frees=(joined, *parts)),),
        evidence={},
    )

    found = without_explained(build(fake), [pile, whole])

    assert [finding.code for finding in found] == told

"""MP210 on runs told as passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from memprof.advise.savings import Savings
from memprof.detect.finding import Finding, Kind, Severity
from memprof.detect.precision import FullPrecisionOutsideAutocast, half_precision_in_use
from memprof.detect.pressure import ActivationsDominatePeak
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import PassFlag, Role
from memprof.record.run_info import RunInfo
from tests.unit.detect.story import MIB, Story, line
from tests.unit.model.fake_recording import FakeRecording

GRAPH, UNDER_AUTOCAST = PassFlag.GRAPH, PassFlag.GRAPH | PassFlag.AUTOCAST
OUTPUT = 64
"""Bytes of what a forward of a story returns."""


def training(
    turn: Callable[[Story], list[int]],
    *,
    turns: int = 4,
    device: str = "cuda:0",
    parameters: str = "float32",
    other_mib: int = 0,
) -> MemoryModel:
    """A run whose every iteration makes some forwards and goes backward through all of them."""
    run = RunInfo(devices=(device,), has_optimizer=True)
    story = Story(FakeRecording(run=run, device=device, counter_noise=0))
    story.recording.birth(8 * MIB, role=Role.PARAMETER, name="weight", dtype=parameters)
    if other_mib:
        story.recording.birth(other_mib * MIB, role=Role.BUFFER, name="table")
    for _ in range(turns):
        saved = turn(story)
        forwards = range(story.next_pass - len(saved) // 2, story.next_pass)
        story.backward(*forwards, frees=tuple(saved))
        story.step(10)
        story.end()
    return story.model()


def called(
    story: Story, at: int, *, mib: int = 64, flags: PassFlag = GRAPH, dtype: str = "float32", root: int = 0
) -> list[int]:
    return story.forward(root, at, saved=mib * MIB, flags=flags, dtype=dtype)[1]


def only(model: MemoryModel) -> Finding | None:
    found = [answer for answer in FullPrecisionOutsideAutocast().check(model) if isinstance(answer, Finding)]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_run_that_never_used_autocast_is_told_what_it_keeps_in_32_bits() -> None:
    model = training(lambda story: called(story, 20))

    found = only(model)

    assert found is not None
    assert (found.kind, found.severity, found.location) == (Kind.PRESSURE, Severity.INFO, line(20))
    assert found.bytes == 64 * MIB + OUTPUT
    assert "64 MiB on cuda:0 when memory is highest, 89% of the peak" in found.message
    (remedy,) = Savings(model).valued(found).remedies
    assert (remedy.slug, remedy.saves_bytes, remedy.source) == (
        "mixed_precision",
        32 * MIB + OUTPUT // 2,
        Source.ESTIMATED,
    )


def test_silent_on_a_cpu() -> None:
    assert only(training(lambda story: called(story, 20), device="cpu")) is None


def test_silent_where_the_forward_calls_autocast_inside() -> None:
    inside = training(lambda story: called(story, 20, mib=40) + called(story, 21, mib=40, dtype="bfloat16"))
    assert only(inside) is None


def test_silent_where_the_parameters_are_in_16_bits() -> None:
    assert only(training(lambda story: called(story, 20), parameters="bfloat16")) is None


def test_silent_where_activations_are_small_or_not_half_of_the_peak() -> None:
    assert only(training(lambda story: called(story, 20, mib=31))) is None
    assert only(training(lambda story: called(story, 20, mib=64), other_mib=60)) is None


def test_silent_in_double_precision() -> None:
    assert only(training(lambda story: called(story, 20, dtype="float64"))) is None


def test_silent_in_fewer_than_three_iterations() -> None:
    assert only(training(lambda story: called(story, 20), turns=2)) is None
    assert only(training(lambda story: called(story, 20), turns=3)) is not None


def test_a_forward_that_was_left_out_is_a_warning() -> None:
    def turn(story: Story) -> list[int]:
        covered = called(story, 20, flags=UNDER_AUTOCAST, dtype="float16")
        return covered + called(story, 25, root=1)

    found = only(training(turn))

    assert found is not None
    assert (found.severity, found.location, found.bytes) == (Severity.WARNING, line(25), 64 * MIB + OUTPUT)
    assert "other forwards of the training loop do" in found.message
    assert found.evidence["forwards_under_autocast"] == 4


def test_silent_where_all_forwards_run_under_autocast() -> None:
    # Some ops stay in 32 bits by autocast's own choice.
    assert only(training(lambda story: called(story, 20, flags=UNDER_AUTOCAST))) is None


def test_silent_where_what_was_left_out_is_small() -> None:
    def turn(story: Story) -> list[int]:
        return called(story, 20, mib=400, flags=UNDER_AUTOCAST, dtype="float16") + called(story, 25, root=1)

    assert only(training(turn)) is None


def test_silent_about_a_gradient_penalty() -> None:
    def turn(story: Story) -> list[int]:
        covered = called(story, 20, flags=UNDER_AUTOCAST, dtype="float16")
        return covered + called(story, 25, flags=GRAPH | PassFlag.LEAF_INPUT)

    assert only(training(turn)) is None


def test_silent_about_a_first_phase_without_autocast() -> None:
    turns = iter(range(8))

    def turn(story: Story) -> list[int]:
        if next(turns) < 4:
            return called(story, 20)
        return called(story, 25, flags=UNDER_AUTOCAST, dtype="float16")

    assert only(training(turn, turns=8)) is None


@pytest.mark.parametrize(
    ("facts", "in_use"),
    [({}, False), ({"flags": GRAPH | PassFlag.AUTOCAST}, True), ({"dtype": "bfloat16"}, True)],
    ids=["float32", "autocast", "converted"],
)
def test_who_computes_in_16_bits_already_is_not_told_to_by_other_rules(facts: dict[str, Any], in_use: bool) -> None:
    model = training(lambda story: called(story, 20, **facts))
    assert half_precision_in_use(model) == in_use
    found = [item for item in ActivationsDominatePeak().check(model) if isinstance(item, Finding)]
    offered = {remedy.slug for item in found for remedy in item.remedies}
    assert {"smaller_batch", "checkpointing"} <= offered
    assert ("mixed_precision" in offered) == (not in_use)

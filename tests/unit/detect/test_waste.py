"""Rules of waste on made-up runs: where they fire, and the runs that look alike and have nothing wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from memprof.detect.anomaly_mode import AnomalyModeOn
from memprof.detect.discarded_gradients import GeneratorGraphInDiscriminatorStep
from memprof.detect.finding import Finding, Severity, Skipped
from memprof.detect.frozen import FrozenBackboneWithAutograd
from memprof.detect.gradients import GradientsKeptTooLong, ParametersUnused
from memprof.detect.joined_outputs import OutputsConcatenatedOnDevice
from memprof.detect.module_paths import region
from memprof.detect.optimizer_temporaries import OptimizerTemporariesAtPeak
from memprof.detect.pass_evidence import Preparation
from memprof.detect.rule import Rule
from memprof.model.lifetimes import IntArray
from memprof.model.memory import Storage
from memprof.model.storages import StorageTable
from memprof.record.events import PassFlag, Phase, Role
from tests.unit.detect.story import MIB, Story, line, share

CHAINED = PassFlag.GRAPH | PassFlag.CHAINED


def ask(rule: type[Rule], story: Story) -> tuple[list[Finding], list[Skipped]]:
    """What a rule says of a story."""
    answers = list(rule().check(story.model()))
    return (
        [item for item in answers if isinstance(item, Finding)],
        [item for item in answers if isinstance(item, Skipped)],
    )


# ---- MP203 -----------------------------------------------------------------------------------


def head_only(
    iterations: int, *, backbone: Callable[[int], dict[str, object]] = lambda _: {}, chained: bool = False
) -> Story:
    """A backbone (module 0) that no optimizer holds below a head (module 1) that optimizer 11 steps."""
    story = Story()
    story.end()
    for index in range(iterations):
        facts = {"gradient": MIB, **backbone(index)}
        gradients = story.shares(share(0, **facts), share(1, optimizer=11, gradient=1024, changed=index > 0))  # type: ignore[arg-type]
        features, saved = story.forward(0, 10, flags=CHAINED if chained else PassFlag.GRAPH)
        scores, rest = story.forward(1, 11, flags=CHAINED, saved=1024)
        story.backward(scores, features, gradients=gradients, frees=(*saved, *rest))
        story.step(11)
        story.zero(11)
        story.end()
    return story


def test_gradients_that_no_optimizer_steps_are_found_with_what_was_saved_for_them() -> None:
    (finding,), skipped = ask(FrozenBackboneWithAutograd, head_only(4))
    assert (finding.location, finding.bytes, finding.severity) == (line(10), 3 * MIB, Severity.ERROR)
    assert finding.remedies[0].slug == "freeze"
    assert finding.evidence["gradient_bytes"] == MIB
    assert not skipped


def test_below_something_trainable_only_the_gradients_count() -> None:
    (finding,), _ = ask(FrozenBackboneWithAutograd, head_only(4, chained=True))
    assert finding.bytes == MIB


def test_two_iterations_are_not_enough() -> None:
    findings, (skipped,) = ask(FrozenBackboneWithAutograd, head_only(2))
    assert not findings
    assert "run at least 3" in skipped.reason


@pytest.mark.parametrize(
    "facts",
    [
        {"optimizer": 12},  # another optimizer steps it some other time
        {"changed": True},  # master weights are copied back, or the step is written by hand
        {"written": True},  # ... through `.data`
        {"requires_grad": False, "gradient": 0},
        {"gradient": 0},
    ],
    ids=str,
)
def test_a_backbone_that_is_trained_or_frozen_is_none(facts: dict[str, object]) -> None:
    assert ask(FrozenBackboneWithAutograd, head_only(4, backbone=lambda _: facts)) == ([], [])


def test_parameters_that_an_optimizer_gets_later_are_not_called_frozen() -> None:
    def unfrozen(index: int) -> dict[str, object]:
        return {"optimizer": 11 if index == 3 else None}

    assert ask(FrozenBackboneWithAutograd, head_only(4, backbone=unfrozen)) == ([], [])


def teacher(iterations: int, *, freed_in_backward: bool = False, used: bool = False) -> Story:
    """A teacher (module 0) whose output is detached, and a student (module 1)."""
    story = Story()
    story.end()
    for _ in range(iterations):
        gradients = story.shares(share(0), share(1, optimizer=11, gradient=1024, changed=True))
        target, kept = story.forward(0, 20)
        output, saved = story.forward(1, 21)
        early = tuple(kept) if freed_in_backward else ()
        story.backward(output, *([target] if used else []), gradients=gradients, frees=(*saved, *early))
        story.step(11)
        if not freed_in_backward:
            story.recording.death(*kept)
        story.end()
    return story


def test_the_graph_of_a_module_that_is_never_trained_is_found() -> None:
    (finding,), _ = ask(FrozenBackboneWithAutograd, teacher(4))
    assert (finding.location, finding.bytes) == (line(20), 2 * MIB)
    assert finding.remedies[0].slug == "no_grad"


@pytest.mark.parametrize("how", [{"freed_in_backward": True}, {"used": True}], ids=str)
def test_a_graph_that_a_hook_or_the_loss_uses_is_none(how: dict[str, bool]) -> None:
    assert ask(FrozenBackboneWithAutograd, teacher(4, **how)) == ([], [])


def test_a_region_is_named_by_its_highest_modules() -> None:
    inside = [share(0, "backbone.a"), share(0, "backbone.b"), share(0, "norm")]
    assert region(inside, [*inside, share(0, "head")]) == ["backbone", "norm"]
    assert region(inside, [*inside, share(0, "backbone.c")]) == ["backbone.a", "backbone.b", "norm"]
    assert region(inside, inside) == []


# ---- MP204 -----------------------------------------------------------------------------------


def gan(iterations: int, *, detached: bool = False, generator_flags: PassFlag = PassFlag.GRAPH) -> Story:
    """A generator (module 0, optimizer 10) and a discriminator (module 1, optimizer 11)."""
    story = Story()
    story.end()
    for _ in range(iterations):
        both = story.shares(share(0, optimizer=10, gradient=MIB), share(1, optimizer=11, gradient=1024))
        one = story.shares(share(0, optimizer=10), share(1, optimizer=11, gradient=1024))
        fake, made = story.forward(0, 30, flags=generator_flags)
        judged, kept = story.forward(1, 31, flags=PassFlag.GRAPH if detached else CHAINED)
        if detached:
            story.backward(judged, gradients=one, frees=(*kept, *made))
        else:
            story.backward(judged, fake, gradients=both, frees=(*kept, *made))
        story.step(11)
        story.zero(10)
        fake, made = story.forward(0, 32)
        judged, kept = story.forward(1, 33, flags=CHAINED)
        story.backward(judged, fake, gradients=both, frees=(*kept, *made))
        story.step(10)
        story.zero(11)
        story.end()
    return story


def test_gradients_of_the_other_network_that_are_thrown_away_are_found() -> None:
    (finding,), _ = ask(GeneratorGraphInDiscriminatorStep, gan(4))
    assert finding.location == line(30)
    assert finding.bytes == 3 * MIB
    assert finding.remedies[0].slug == "no_grad"


def test_the_discriminators_gradients_of_the_generators_step_are_needed() -> None:
    assert ask(GeneratorGraphInDiscriminatorStep, gan(4, detached=True)) == ([], [])


def test_a_network_whose_input_needs_the_graph_is_left_alone() -> None:
    assert ask(GeneratorGraphInDiscriminatorStep, gan(4, generator_flags=CHAINED)) == ([], [])


def test_a_gan_of_two_iterations_is_not_judged() -> None:
    findings, (skipped,) = ask(GeneratorGraphInDiscriminatorStep, gan(2))
    assert not findings
    assert "run at least 3" in skipped.reason


# ---- MP207 -----------------------------------------------------------------------------------


def zeroed(iterations: int, *, freed: bool = False, backwards: int = 1) -> Story:
    """A loop that zeroes gradients of 2 MiB in place."""
    story = Story()
    story.end()
    gradient = None
    for _ in range(iterations):
        profile = story.shares(share(0, optimizer=10, gradient=2 * MIB, changed=True))
        for _ in range(backwards):
            out, saved = story.forward(0, 40, saved=5 * MIB)
            story.backward(out, gradients=profile, frees=tuple(saved))
            if gradient is None:
                gradient = story.recording.birth(2 * MIB, role=Role.GRADIENT)
        story.step(10)
        story.zero(10, freed=freed)
        if freed and gradient is not None:
            story.recording.death(gradient)
            gradient = None
        story.end()
    return story


def test_gradients_that_are_zeroed_in_place_are_found() -> None:
    (finding,), _ = ask(GradientsKeptTooLong, zeroed(5))
    assert (finding.location, finding.bytes, finding.remedies[0].slug) == (line(92), 2 * MIB, "zero_grad")


def test_what_else_a_process_allocates_while_nothing_is_watched_makes_zeroed_gradients_no_smaller() -> None:
    story = zeroed(4)
    story.recording.watching = False
    story.recording.counter_noise += 400 * MIB
    for _ in range(3):
        story.recording.step()
    (finding,), _ = ask(GradientsKeptTooLong, story)
    assert finding.bytes == 2 * MIB


@pytest.mark.parametrize("how", [{"freed": True}, {"backwards": 2}], ids=str)
def test_gradients_that_are_freed_or_accumulated_are_not(how: dict[str, object]) -> None:
    assert ask(GradientsKeptTooLong, zeroed(5, **how)) == ([], [])  # type: ignore[arg-type]


# ---- MP208 -----------------------------------------------------------------------------------


def anomaly(*on: bool) -> Story:
    """Training steps with anomaly mode on or off."""
    story = Story()
    for value in on:
        out, saved = story.forward(0, 50)
        flags = PassFlag.ANOMALY if value else PassFlag(0)
        story.backward(out, frees=tuple(saved), flags=flags)
        story.step(10)
        story.end()
    return story


def test_anomaly_mode_that_stays_on_is_found() -> None:
    (finding,), _ = ask(AnomalyModeOn, anomaly(*[False] * 3, *[True] * 8))
    assert finding.evidence["backwards"] == 8
    assert finding.bytes is None
    assert finding.severity is Severity.INFO


def test_anomaly_mode_for_a_while_is_none() -> None:
    assert ask(AnomalyModeOn, anomaly(*[True] * 9, False)) == ([], [])
    findings, (skipped,) = ask(AnomalyModeOn, anomaly(*[True] * 7))
    assert not findings
    assert "at least 8" in skipped.reason


# ---- MP212 -----------------------------------------------------------------------------------


def model_with(iterations: int, **idle: object) -> Story:
    """A model of which `pooler` differs from what is trained by what is said of it."""
    story = Story()
    story.end()
    for _ in range(iterations):
        trained = share(0, "body", optimizer=10, gradient=1024, changed=True)
        facts = {"optimizer": 10, "entered": False, **idle}
        profile = story.shares(trained, share(0, "pooler.dense", **facts))  # type: ignore[arg-type]
        out, saved = story.forward(0, 60)
        story.backward(out, gradients=profile, frees=tuple(saved))
        story.step(10)
        story.end()
    return story


def test_parameters_that_nothing_uses_are_found() -> None:
    (finding,), _ = ask(ParametersUnused, model_with(3))
    assert (finding.bytes, finding.remedies[0].slug) == (MIB, "drop_module")
    assert "`pooler`" in finding.message


@pytest.mark.parametrize(
    "facts",
    [
        {"entered": True},  # a target network, or a head that only evaluation calls
        {"requires_grad": False},
        {"changed": True},
        {"written": True},  # an average of other weights
        {"gradient": 4},
        {"nbytes": 1024},
    ],
    ids=str,
)
def test_parameters_that_something_uses_are_not(facts: dict[str, object]) -> None:
    assert ask(ParametersUnused, model_with(3, **facts)) == ([], [])


def test_two_iterations_do_not_show_that_parameters_are_never_used() -> None:
    findings, (skipped,) = ask(ParametersUnused, model_with(2))
    assert not findings
    assert "run at least 3" in skipped.reason


# ---- what is prepared for an iteration ---------------------------------------------------------


def test_what_is_made_after_the_step_is_for_the_next_iteration() -> None:
    story = head_only(3)
    model = story.model()
    preparation = Preparation(model)
    end = max(item.end_ns for item in model.passes if item.tick == 2)
    facts = {"made": line(80), "made_in": 2, "phase": Phase.OTHER}
    assert preparation.is_for(3, made_ns=end, **facts)  # type: ignore[arg-type]
    assert not preparation.is_for(3, made_ns=1, **facts)  # type: ignore[arg-type]
    assert not preparation.is_for(4, made_ns=end, **facts)  # type: ignore[arg-type]
    assert not preparation.is_for(3, made=line(80), made_ns=end, made_in=2, phase=Phase.FORWARD)


# ---- MP205 and MP213 ---------------------------------------------------------------------------


def stepped(*ops: str) -> Story:
    """Training in which memory is highest in the optimizer's step, by a temporary that an op made."""
    story = Story()
    story.end()
    for op in ops:
        number, saved = story.forward(0, 10, saved=64)
        story.backward(number, frees=tuple(saved))
        story.recording.sample(Phase.OPTIMIZER, ends=False)
        story.recording.death(story.recording.birth(8 * MIB, op=op, location=line(91)))
        story.recording.sample(Phase.OPTIMIZER, ends=True)
        story.end()
    return story


def test_a_last_step_without_foreach_does_not_hide_those_before() -> None:
    (finding,), _ = ask(OptimizerTemporariesAtPeak, stepped(*["aten._foreach_sqrt.default"] * 5, "aten.sqrt.default"))
    assert finding.location == line(91)
    assert finding.bytes == 8 * MIB


def joined(sizes: list[int], *, freed: bool = True) -> Story:
    """Iterations in each of which one line joins something, before it lets go of what it had joined before."""
    story = Story()
    story.end()
    before = None
    for nbytes in sizes:
        number, saved = story.forward(0, 10, saved=64)
        story.backward(number, frees=tuple(saved))
        made = story.recording.birth(nbytes, op="aten.cat.default", location=line(95))
        if before is not None and freed:
            story.recording.death(before)
        before = made
        story.end()
    return story


def test_outputs_that_one_line_joins_to_those_before_are_found() -> None:
    (finding,), _ = ask(OutputsConcatenatedOnDevice, joined([count * MIB for count in range(1, 8)]))
    assert finding.location == line(95)
    assert finding.evidence["parts"] == 6
    assert finding.bytes == 13 * MIB


@pytest.mark.parametrize("sizes", [[4 * MIB] * 8, [(8 - count) * MIB for count in range(7)]], ids=["same", "shorter"])
def test_what_is_joined_anew_each_time_is_fine(sizes: list[int]) -> None:
    assert ask(OutputsConcatenatedOnDevice, joined(sizes)) == ([], [])


def test_looking_for_what_was_joined_makes_no_more_storages_in_a_longer_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    rows_of = StorageTable.rows

    def counted(self: StorageTable, rows: IntArray) -> Iterator[Storage]:
        made.append(len(rows))
        return rows_of(self, rows)

    monkeypatch.setattr(StorageTable, "rows", counted)
    totals = []
    for iterations in (10, 40):
        made.clear()
        ask(OutputsConcatenatedOnDevice, joined([4 * MIB] * iterations))
        totals.append(sum(made))
    assert totals[1] <= 4 * totals[0]

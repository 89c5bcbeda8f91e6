"""MP301 to MP304 on peaks made up by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.detect.finding import Finding, Severity, Skipped
from memprof.detect.pressure import ActivationsDominatePeak, GradientsDominatePeak, OptimizerStateDominatesPeak
from memprof.detect.rule import Rule
from memprof.detect.single_tensor import SingleTensorDominatesPeak
from memprof.model.build import build
from memprof.model.memory import MemoryModel
from memprof.record.events import Location, Phase, Role
from memprof.record.run_info import OptimizerMade
from tests.unit.model.fake_recording import FakeRecording

MIB = 1 << 20
MADE = Location("train.py", 4, "main")
STEP = Location("train.py", 30, "main")
BACKWARD = Location("train.py", 29, "main")


def peak_of(
    *,
    parameters: int = 0,
    activations: tuple[int, ...] = (),
    gradients: tuple[int, ...] = (),
    state: tuple[int, ...] = (),
    gradient_op: str = "aten::mm",
) -> MemoryModel:
    """A run of two iterations with all of this alive at the end of each backward; sizes in MiB."""
    fake = FakeRecording(counter_noise=0)
    if parameters:
        fake.birth(parameters * MIB, role=Role.PARAMETER, name="weight")
    for size in state:
        fake.birth(size * MIB, role=Role.OPTIMIZER_STATE, name="exp_avg", location=STEP)
    for _ in range(2):
        fake.sample(Phase.FORWARD, ends=False)
        made = [fake.birth(size * MIB, op="aten::relu") for size in activations]
        fake.sample(Phase.FORWARD, ends=True)
        fake.sample(Phase.BACKWARD, ends=False)
        made += [fake.birth(size * MIB, role=Role.GRADIENT, op=gradient_op, location=BACKWARD) for size in gradients]
        fake.sample(Phase.BACKWARD, ends=True)
        fake.death(*made)
        fake.end_tick()
    return build(fake)


def only(rule: type[Rule], model: MemoryModel) -> Finding | None:
    found = [answer for answer in rule().check(model) if isinstance(answer, Finding)]
    assert len(found) <= 1
    return found[0] if found else None


def test_optimizer_state() -> None:
    model = peak_of(parameters=40, gradients=(40,), state=(40, 40))
    made = (OptimizerMade("SGD", STEP, 0), OptimizerMade("AdamW", MADE, 80 * MIB))
    model = replace(model, run=replace(model.run, optimizers=made))

    found = only(OptimizerStateDominatesPeak, model)

    assert found is not None
    assert (found.severity, found.location, found.bytes) == (Severity.INFO, MADE, 80 * MIB)
    assert found.evidence["share_of_peak"] == 0.5
    assert "80.0 MiB, 50% of the peak" in found.message.replace("80 MiB", "80.0 MiB")
    assert "AdamW" in (found.holder or "")
    assert [remedy.slug for remedy in found.remedies] == ["lean_optimizer", "freeze"]


def test_optimizer_state_of_an_unknown_optimizer_is_placed_at_its_step() -> None:
    found = only(OptimizerStateDominatesPeak, peak_of(parameters=40, gradients=(40,), state=(40, 40)))
    assert found is not None
    assert found.location == STEP


@pytest.mark.parametrize(
    "sizes",
    [
        {"parameters": 10, "gradients": (10,), "state": (10, 10)},  # 20 MiB: nobody cares
        {"parameters": 40, "gradients": (40,), "state": (40,), "activations": (30, 20)},  # activations are more
        {"parameters": 200, "state": (40, 20)},  # below the share
    ],
)
def test_optimizer_state_is_not_the_cause(sizes: dict[str, tuple[int, ...]]) -> None:
    assert only(OptimizerStateDominatesPeak, peak_of(**sizes)) is None


@pytest.mark.parametrize(
    ("op", "slug"), [("aten::embedding_dense_backward", "sparse_gradients"), ("aten::mm", "step_in_backward")]
)
def test_gradients(op: str, slug: str) -> None:
    found = only(GradientsDominatePeak, peak_of(parameters=60, gradients=(40, 20), activations=(3,), gradient_op=op))

    assert found is not None
    assert (found.bytes, found.location) == (60 * MIB, BACKWARD)
    assert found.remedies[0].slug == slug
    assert ("embedding table" in found.message) == (slug == "sparse_gradients")


def test_gradients_beside_as_much_state_are_not_the_cause() -> None:
    assert only(GradientsDominatePeak, peak_of(parameters=40, gradients=(40,), state=(40, 40))) is None


def test_activations() -> None:
    found = only(ActivationsDominatePeak, peak_of(parameters=2, activations=(20, 20, 20), gradients=(2,)))
    assert found is not None
    assert found.bytes == 60 * MIB
    assert only(ActivationsDominatePeak, peak_of(parameters=30, activations=(34,), gradients=(30,))) is None


def test_activations_of_earlier_iterations_are_not_what_the_current_graph_holds() -> None:
    fake = FakeRecording(counter_noise=0)
    for _ in range(4):
        fake.sample(Phase.FORWARD, ends=False)
        fake.birth(40 * MIB, op="aten::relu")  # stays
        passing = fake.birth(20 * MIB, op="aten::relu")
        fake.sample(Phase.FORWARD, ends=True)
        fake.death(passing)
        fake.end_tick()

    [answer] = ActivationsDominatePeak().check(build(fake))

    assert isinstance(answer, Skipped)
    assert "earlier iterations" in answer.reason


@pytest.mark.parametrize(
    ("activations", "together"),
    [
        ((48,), 48),
        ((48, 10, 4), 48),
        ((48, 48, 48, 10), 144),
        ((30,), None),  # too small
        ((48, 48, 48, 48, 48), None),  # so many are no single tensor
        ((48, 30), None),  # another is of the same order
        ((40, 19, 19, 19), None),  # below half of the peak
    ],
)
def test_single_tensor(activations: tuple[int, ...], together: int | None) -> None:
    found = only(SingleTensorDominatesPeak, peak_of(activations=activations))

    assert (found.bytes if found is not None else None) == (together * MIB if together else None)
    if found is not None:
        assert found.remedies[0].slug == "chunk"
        assert len(found.remedies[0].frees) == 2 * found.evidence["alike"]  # of both iterations


@pytest.mark.parametrize(
    ("sizes", "slug"),
    [
        ({"parameters": 64}, "move_to_cpu"),
        ({"parameters": 4, "state": (64,)}, "lean_optimizer"),
        ({"parameters": 4, "gradients": (64,)}, "sparse_gradients"),
    ],
)
def test_remedy_for_a_single_tensor_depends_on_what_it_is(sizes: dict[str, tuple[int, ...]], slug: str) -> None:
    found = only(SingleTensorDominatesPeak, peak_of(**sizes))
    assert found is not None
    assert found.remedies[0].slug == slug


def test_an_unwatched_peak_has_no_cause() -> None:
    model = peak_of(parameters=40, gradients=(40,), state=(40, 40), activations=(200,))
    unwatched = {device: replace(peak, by_category=None, lines=(), largest=()) for device, peak in model.peaks.items()}
    model = replace(model, peaks=unwatched)
    for rule in (OptimizerStateDominatesPeak, GradientsDominatePeak, SingleTensorDominatesPeak):
        assert only(rule, model) is None

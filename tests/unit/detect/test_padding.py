"""MP211 on runs told as batches and what their iterations kept."""

from __future__ import annotations

import pytest

from memprof.advise.savings import Savings
from memprof.detect.finding import Finding, Kind, Severity
from memprof.detect.padding import PaddingWaste
from memprof.model.build import build
from memprof.model.memory import MemoryModel, Source
from memprof.record.events import Location, Phase, Role
from memprof.record.run_info import PaddedBatch, RunInfo
from tests.unit.model.fake_recording import TRAIN_FLAGS, FakeRecording

MIB = 1 << 20
LOOP = Location("train.py", 30, "train")
ROWS, LENGTH = 32, 100
FEATURES = 256
SCALES = ROWS * LENGTH * FEATURES * 4


def run(
    *,
    rows: int = ROWS,
    length: int = LENGTH,
    turns: int = 5,
    padding: float = 0.5,
    shortest: int = 5,
    activations: tuple[int, ...] = (SCALES,),
    given: tuple[int, str] | None = (ROWS * LENGTH * 8, "int64"),
    parameters: int = MIB,
    device: str = "cpu",
) -> MemoryModel:
    """A run that trains on padded batches.

    Args:
        rows: Sequences in a batch.
        length: Elements of each, with padding.
        turns: Iterations.
        padding: Share of padding.
        shortest: Length of the shortest row.
        activations: Sizes of what a forward keeps, in bytes.
        given: Bytes and type of what the model is given; None: nothing that was seen.
        parameters: Bytes of the parameters.
        device: Where all of it is.
    """
    fake = FakeRecording(run=RunInfo(devices=(device,), has_optimizer=True), device=device, counter_noise=0)
    fake.birth(parameters, role=Role.PARAMETER, name="weight")
    batches = []
    for tick in range(turns):
        batches.append(PaddedBatch(LOOP, tick, 0, rows, length, shortest, length, padding))
        made = [fake.birth(given[0], role=Role.INPUT, dtype=given[1])] if given is not None else []
        fake.sample(Phase.FORWARD, ends=False)
        made += [fake.birth(nbytes, op="aten::relu") for nbytes in activations]
        fake.sample(Phase.FORWARD, ends=True)
        fake.sample(Phase.BACKWARD, ends=False)
        fake.death(*made)
        fake.sample(Phase.BACKWARD, ends=True)
        fake.end_tick(TRAIN_FLAGS)
    fake.run.padded_batches = tuple(batches)
    return build(fake)


def only(model: MemoryModel) -> Finding | None:
    found = [answer for answer in PaddingWaste().check(model) if isinstance(answer, Finding)]
    assert len(found) <= 1
    return found[0] if found else None


def test_activations_of_padding_are_estimated_from_its_share() -> None:
    model = run()

    found = only(model)

    assert found is not None
    assert (found.kind, found.severity, found.source) == (Kind.WASTE, Severity.WARNING, Source.ESTIMATED)
    assert (found.location, found.bytes) == (LOOP, SCALES // 2)
    assert "50% of what the loader gives at train.py:30 is padding: rows of 5 to 100 elements" in found.message
    remedies = Savings(model).valued(found).remedies
    assert [remedy.slug for remedy in remedies] == ["bucket_by_length", "pack_sequences"]
    assert {(remedy.saves_bytes, remedy.source) for remedy in remedies} == {(SCALES // 2, Source.ESTIMATED)}


def test_only_the_activations_that_grow_with_the_length_count() -> None:
    model = run(activations=(SCALES, SCALES + 4))

    found = only(model)

    assert found is not None
    assert found.bytes == SCALES // 2
    assert found.evidence["activations_that_scale"] == pytest.approx(0.5, abs=0.001)
    (saved, *_) = [remedy.saves_bytes for remedy in Savings(model).valued(found).remedies]
    assert saved == pytest.approx(SCALES / 2, rel=0.01)


def test_a_sequence_without_its_last_token_scales_too() -> None:
    assert only(run(activations=(ROWS * (LENGTH - 1) * FEATURES * 4,))) is not None


def test_what_the_rounding_of_cuda_hides_does_not_count() -> None:
    small = {"rows": 8, "length": 20, "given": (8 * 20 * 8, "int64"), "device": "cuda:0"}
    scales = 8 * 20 * 4 * 4096
    assert only(run(**small, activations=(scales + 64,))) is None  # type: ignore[arg-type]
    small |= {"length": 50, "given": (8 * 50 * 8, "int64")}
    scales = 8 * 50 * 4 * 4096
    assert only(run(**small, activations=(scales + 64,))) is not None  # type: ignore[arg-type]
    assert only(run(**small, activations=(scales + 560,))) is None  # type: ignore[arg-type]


def test_blocks_of_cuda_are_rounded_up() -> None:
    rounded = {"activations": (SCALES + 256,), "given": (ROWS * LENGTH * 8 + 256, "int64")}
    assert only(run(device="cuda:0", **rounded)) is not None  # type: ignore[arg-type]
    assert only(run(**rounded)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"turns": 3},
        {"padding": 0.39},
        {"shortest": LENGTH},  # all rows are of one length
        {"activations": (SCALES + 4,)},  # packed: their size is not that of the batch
        {"activations": (ROWS * LENGTH * 4,)},  # 12 KiB
        {"given": None},
        {"given": (ROWS * 3 * 64 * 64 * 4, "float32")},  # images: what is padded are their labels
        {"parameters": 10 * SCALES},  # not what the peak is made of
    ],
)
def test_silent(changes: dict[str, object]) -> None:
    assert only(run(**changes)) is None  # type: ignore[arg-type]


def test_silent_about_evaluation() -> None:
    model = run()
    assert only(model) is not None
    fake = FakeRecording(counter_noise=0)
    fake.run.padded_batches = model.run.padded_batches
    for _ in range(5):
        fake.end_tick(TRAIN_FLAGS & ~TRAIN_FLAGS)
    assert only(build(fake)) is None

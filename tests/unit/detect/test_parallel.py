"""MP321 and MP322 on devices made up by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.detect.finding import Finding, Severity
from memprof.detect.parallel import ModelSplitUnevenly, OutputsGatheredOnOneDevice
from memprof.detect.rule import Rule
from memprof.model.build import build
from memprof.model.memory import MemoryModel, Peak, Source
from memprof.record.events import Location
from memprof.record.run_info import GatheredOutputs, ModelPart
from tests.unit.model.fake_recording import FakeRecording

MIB = 1 << 20
LINE = Location("train.py", 20, "train")


def with_peaks(*peaks: int, **run: object) -> MemoryModel:
    """A run of which only the peaks of its GPUs are known, in MiB."""
    model = build(FakeRecording())
    made = {
        f"cuda:{number}": Peak(f"cuda:{number}", size * MIB, None, Source.MEASURED, 0, None, None, None)
        for number, size in enumerate(peaks)
    }
    return replace(model, peaks=made, run=replace(model.run, **run))  # type: ignore[arg-type]


def only(rule: type[Rule], model: MemoryModel) -> Finding | None:
    found = [answer for answer in rule().check(model) if isinstance(answer, Finding)]
    assert len(found) <= 1
    return found[0] if found else None


def gathered(nbytes: int) -> tuple[GatheredOutputs, ...]:
    return (GatheredOutputs(LINE, "cuda:0", 2, nbytes, 8),)


def test_gathered_outputs() -> None:
    found = only(OutputsGatheredOnOneDevice, with_peaks(100, 40, 45, gathered=gathered(30 * MIB)))

    assert found is not None
    assert (found.location, found.device, found.bytes) == (LINE, "cuda:0", 30 * MIB)
    assert found.severity is Severity.WARNING
    assert "30% of its peak" in found.message
    assert "no other device needs more than 45" in found.message
    assert [remedy.slug for remedy in found.remedies] == ["ddp", "loss_in_forward"]


@pytest.mark.parametrize(
    ("peaks", "nbytes"),
    [
        ((100, 40), 5 * MIB),  # a classifier's outputs
        ((100, 90), 30 * MIB),  # the others are as full
        ((2, 1), MIB // 2),
        ((100,), 30 * MIB),
    ],
)
def test_gathered_outputs_that_do_not_matter(peaks: tuple[int, ...], nbytes: int) -> None:
    assert only(OutputsGatheredOnOneDevice, with_peaks(*peaks, gathered=gathered(nbytes))) is None


PARTS = (ModelPart("Net", "cuda:0", 8 * MIB, ("a", "b")), ModelPart("Net", "cuda:1", MIB, ("head",)))


@pytest.mark.parametrize(("peaks", "severity"), [((120, 20), Severity.INFO), ((20, 400), Severity.WARNING)])
def test_uneven_split(peaks: tuple[int, int], severity: Severity) -> None:
    found = only(ModelSplitUnevenly, with_peaks(*peaks, model_parts=PARTS))

    assert found is not None
    fullest = "cuda:0" if peaks[0] > peaks[1] else "cuda:1"
    assert (found.device, found.bytes, found.severity) == (fullest, max(peaks) * MIB, severity)
    assert found.evidence["even_bytes"] == sum(peaks) // 2 * MIB
    assert "cuda:0 has 8 MiB of parameters (a, b)" in found.message
    assert found.remedies[0].slug == "split_evenly"


@pytest.mark.parametrize("peaks", [(60, 50), (12, 2), (90, 60), (100,)])
def test_even_enough(peaks: tuple[int, ...]) -> None:
    assert only(ModelSplitUnevenly, with_peaks(*peaks, model_parts=PARTS)) is None


def test_models_on_one_device_each_are_not_split() -> None:
    assert only(ModelSplitUnevenly, with_peaks(120, 20)) is None

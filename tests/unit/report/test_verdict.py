"""What a diagnosis comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.advise.diagnosis import Diagnosis
from memprof.detect.finding import Kind, Severity
from memprof.model.memory import Source, Trend
from memprof.report.verdict import in_short, next_step, tone, unexplained_growth, verdict
from tests import factories

MIB = 1 << 20


def growing(bytes_per_iteration: float, *, source: Source = Source.MEASURED, watched: bool = False) -> Diagnosis:
    """A run of 40 iterations with a peak of 276 MiB that no rule found anything in."""
    model = factories.clean().model
    iterations = tuple(replace(item, tracked=watched or item.index < 5) for item in model.iterations)
    trend = Trend(bytes_per_iteration, 0, 40, 41, 1.0, source)
    return Diagnosis(replace(model, trends={"cpu": trend}, iterations=iterations), (), ())


def test_findings_are_counted_by_severity() -> None:
    leak, peak = factories.leaking().findings
    model = factories.clean().model

    assert verdict(Diagnosis(model, (leak, leak, peak), ())) == "2 errors, 1 warning"
    assert verdict(Diagnosis(model, (), ())) == "no problem found"
    assert next_step(Diagnosis(model, (), ())) == ""


def test_a_verdict_in_short_names_the_first_finding() -> None:
    whole = factories.leaking()
    first, second = whole.findings

    assert in_short(factories.clean(), "/project") == "no problem found"
    assert in_short(replace(whole, findings=(first,)), "/project") == f"1 error: {first.code} at train.py:41 in train"
    assert in_short(replace(whole, findings=(first, second)), "/project").startswith(
        f"1 error, 1 warning, first {first.code} at train.py:"
    )
    assert in_short(replace(whole, findings=(replace(first, location=None),)), "/") == f"1 error: {first.code}"


def test_a_run_without_a_loop_is_not_called_clean() -> None:
    whole = factories.clean().model
    model = replace(whole, iterations=(replace(whole.iterations[0], kind="other"),))
    idle = replace(model, storages={}, peaks={"cpu": replace(whole.peaks["cpu"], allocated_bytes=0)})

    assert verdict(Diagnosis(model, (), ())) == "no problem found, but no training or evaluation was seen either"
    assert verdict(Diagnosis(idle, (), ())) == "no tensor was made in this process, so nothing can be said"
    assert "torchrun -m memprof analyze" in next_step(Diagnosis(idle, (), ()))
    assert next_step(Diagnosis(replace(idle, run=replace(idle.run, exception="ValueError: x")), (), ())) == ""


def test_growth_that_no_rule_explains_is_not_called_clean() -> None:
    diagnosis = growing(2 * MIB, source=Source.ESTIMATED)

    assert verdict(diagnosis) == "memory grows, and no rule found out why"
    assert tone(diagnosis) is Severity.WARNING
    assert next_step(diagnosis) == (
        "Memory on cpu grew by 2 MiB an iteration, 80 MiB in all (estimated), and no finding explains it; "
        "`--level tensors` watches every iteration."
    )
    assert next_step(growing(2 * MIB, watched=True)).endswith("; below are the lines that held most.")


@pytest.mark.parametrize("bytes_per_iteration", [1.0 * MIB, 0.0, -2.0 * MIB, float("nan")])
def test_little_growth_is_none(bytes_per_iteration: float) -> None:
    diagnosis = growing(bytes_per_iteration)

    assert unexplained_growth(diagnosis) is None
    assert verdict(diagnosis) == "no problem found"
    assert tone(diagnosis) is None


@pytest.mark.parametrize(
    ("kind", "share", "explained"), [(Kind.LEAK, 0.6, True), (Kind.LEAK, 0.1, False), (Kind.WASTE, 0.6, False)]
)
def test_a_leak_explains_growth_of_its_size(kind: Kind, share: float, explained: bool) -> None:
    diagnosis = growing(2 * MIB)
    finding = replace(factories.leaking().findings[0], kind=kind, bytes_per_iteration=share * 2 * MIB)
    found = replace(diagnosis, findings=(finding,))

    assert (unexplained_growth(found) is None) is explained
    assert (next_step(found) == "") is explained
    assert verdict(found) == "1 error"

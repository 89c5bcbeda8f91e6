"""Two runs side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memprof.advise.compare import Status, compare
from memprof.advise.diagnosis import Diagnosis
from memprof.detect.finding import Finding
from tests import factories


def changes(before: Diagnosis, after: Diagnosis) -> list[tuple[Status, str]]:
    return [(item.status, item.finding.code) for item in compare(before, after).findings]


def moved(finding: Finding, *, lines: int = 0, function: str | None = None) -> Finding:
    assert finding.location is not None
    where = finding.location._replace(line=finding.location.line + lines)
    return replace(finding, location=where if function is None else where._replace(function=function))


def test_a_finding_is_the_same_where_its_line_has_moved() -> None:
    before = factories.leaking()
    first, second = before.findings
    after = replace(before, findings=(moved(first, lines=7),))

    assert changes(before, after) == [(Status.GONE, second.code), (Status.STILL, first.code)]
    assert changes(after, before) == [(Status.NEW, second.code), (Status.STILL, first.code)]
    assert compare(before, after).findings[1].after == after.findings[0]


def test_a_finding_of_another_function_or_device_is_another() -> None:
    before = factories.leaking()
    [first, _] = before.findings
    before = replace(before, findings=(first,))

    for other in (moved(first, function="elsewhere"), replace(first, device="cuda:1")):
        assert [status for status, _ in changes(before, replace(before, findings=(other,)))] == [
            Status.GONE,
            Status.NEW,
        ]


def test_several_of_one_function_are_paired_in_the_order_of_their_lines() -> None:
    before = factories.leaking()
    first = before.findings[0]
    three = replace(before, findings=(moved(first, lines=9), first, moved(first, lines=4)))
    two = replace(before, findings=(moved(first, lines=5), moved(first, lines=1)))

    found = compare(three, two).findings

    assert [item.status for item in found] == [Status.GONE, Status.STILL, Status.STILL]
    assert found[0].before == three.findings[0]


def test_figures_of_both_runs_and_of_devices_that_one_lacks() -> None:
    before, after = factories.leaking(), factories.clean()

    [device] = compare(before, after).devices
    assert (device.device, device.before.peak_allocated_bytes) == ("cpu", before.model.peaks["cpu"].allocated_bytes)
    assert device.peak_increase == pytest.approx(
        after.model.peaks["cpu"].allocated_bytes / before.model.peaks["cpu"].allocated_bytes - 1
    )
    lacking = compare(before, replace(after, model=replace(after.model, peaks={}, trends={}))).devices[0]
    assert lacking.after.peak_allocated_bytes is None
    assert lacking.after.trend is None
    assert lacking.peak_increase is None


def test_time_is_of_training_iterations_that_were_not_watched() -> None:
    whole = factories.clean()
    slow = [
        replace(item, tracked=item.index < 5, end_ns=item.start_ns + (90 if item.index < 5 else 10))
        for item in whole.model.iterations
    ]
    watched = [replace(item, tracked=True) for item in slow]
    times = [replace(whole, model=replace(whole.model, iterations=tuple(items))) for items in (slow, watched[:5], ())]

    assert compare(times[0], times[1]).iteration_ns == (10, 90)
    assert compare(times[2], times[0]).iteration_ns == (None, 10)


def test_what_else_differs_is_said() -> None:
    whole = factories.clean()
    other = replace(whole, model=replace(whole.model, run=replace(whole.model.run, level="steps", torch="2.14.1")))

    assert compare(whole, whole).differences == ()
    assert compare(whole, other).differences == (
        "torch: 2.13.0 before, 2.14.1 after",
        "level: tensors before, steps after",
    )

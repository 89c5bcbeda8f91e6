"""The search for the largest value that fits."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from memprof.advise.fit import Trial, largest_that_fits
from memprof.report.fit_report import fit_table

MIB = 1 << 20
NEEDS: dict[str, Callable[[int], int]] = {
    "linear": lambda value: 100 * MIB + 7 * MIB * value,
    "quadratic": lambda value: 50 * MIB + MIB * value + MIB * value * value // 64,
    "in steps": lambda value: (40 * MIB + 3 * MIB * value) // (20 * MIB) * 20 * MIB,
    "constant, then steep": lambda value: 30 * MIB + max(0, value - 50) * 40 * MIB,
}


def search(need: Callable[[int], int], limit: int, **options: int):
    """Search with a need that is known."""

    def run(value: int) -> Trial:
        fits = need(value) <= limit
        return Trial(value, fits, need(value) if fits else None, 0.0, "" if fits else "out of memory")

    return largest_that_fits(run, gpu="8GiB", total_bytes=limit, limit_bytes=limit, **options)


@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.parametrize("limit", [300 * MIB, 1000 * MIB, 8000 * MIB])
def test_the_answer_is_the_largest_and_one_more_was_tried(name: str, limit: int) -> None:
    need = NEEDS[name]
    found = search(need, limit, runs=40)
    expected = max(value for value in range(1, 5000) if need(value) <= limit)
    assert found.largest == expected
    assert found.bounded
    assert {trial.value for trial in found.trials} >= {expected, expected + 1}
    assert found.at_largest is not None
    assert found.at_largest.needed_bytes == need(expected)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_smooth_growth_takes_few_runs(name: str) -> None:
    assert len(search(NEEDS[name], 8000 * MIB).trials) <= 9


def test_nothing_fits() -> None:
    found = search(NEEDS["linear"], 50 * MIB)
    assert (found.largest, found.bounded, len(found.trials)) == (None, False, 1)


@pytest.mark.parametrize(("first", "step", "most"), [(1, 4, 10), (8, 8, 50), (3, 7, 3), (16, 16, 33), (1, 5, 4000)])
def test_no_value_above_the_highest_one_allowed_is_tried(first: int, step: int, most: int) -> None:
    found = search(NEEDS["linear"], 1 << 60, first=first, step=step, most=most, runs=40)
    tried = [trial.value for trial in found.trials]
    assert found.largest == max(tried) == first + (most - first) // step * step
    assert all((value - first) % step == 0 for value in tried)
    assert not found.bounded


def test_the_highest_value_allowed_fits() -> None:
    found = search(NEEDS["linear"], 8000 * MIB, most=20)
    assert (found.largest, found.bounded) == (20, False)
    assert max(trial.value for trial in found.trials) == 20


def test_values_are_steps_apart() -> None:
    found = search(NEEDS["linear"], 8000 * MIB, first=8, step=8)
    assert found.largest == 1128
    assert all(trial.value % 8 == 0 for trial in found.trials)


def test_no_more_runs_than_allowed() -> None:
    found = search(NEEDS["constant, then steep"], 8000 * MIB, runs=3)
    assert len(found.trials) == 3
    assert not found.bounded
    assert found.used_up


@pytest.mark.parametrize(("options", "said"), [({"runs": 2}, "runs used up"), ({"most": 20}, "the highest value")])
def test_the_table_says_why_no_higher_value_was_tried(options: dict[str, int], said: str) -> None:
    found = search(NEEDS["linear"], 8000 * MIB, **options)
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(fit_table([found], "batch-size"))
    assert f"not tried: {said}" in console.export_text()

"""How two runs are shown side by side."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from memprof.advise.compare import compare
from memprof.report.compare_report import compare_table, compare_text
from tests import factories


def text_of(before: str, after: str, width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, _environ={})
    found = compare(factories.SCENARIOS[before](), factories.SCENARIOS[after]())
    console.print(compare_table(found, ("before", "after"), console, "/project"))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def test_a_run_that_was_mended() -> None:
    text = text_of("leaking", "clean")

    assert "peak on cpu" in text
    assert "1.76 GiB" in text
    assert "276 MiB" in text
    assert "(-85 %)" in text
    assert "steady" in text
    assert "+38.2 MiB/iteration" in text
    assert "gone  MP101 error" in text
    assert " new " not in text
    assert "iterations: 40 before, 30 after" in text


def test_two_clean_runs() -> None:
    text = text_of("clean", "clean")

    assert "no finding in either run" in text
    assert "differ" not in text


@pytest.mark.parametrize("before", sorted(factories.SCENARIOS))
@pytest.mark.parametrize("after", ["leaking", "empty", "hostile"])
def test_any_two_runs_can_be_shown(before: str, after: str) -> None:
    text = text_of(before, after)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "None" not in text
    assert "nan" not in text
    assert "\x1b" not in text

    document = json.loads(compare_text(compare(factories.SCENARIOS[before](), factories.SCENARIOS[after]())))
    assert {"devices", "findings", "iteration_ns", "differences"} == set(document)

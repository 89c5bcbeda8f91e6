"""`python -m benchmarks` runs, has a row for every subject and writes where it should; no timing is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SUBJECTS = {
    "steps",
    "auto",
    "tensors",
    "nothing",
    "mem_tracker",
    "profiler",
    "profiler_stacks",
    "memray",
    "memlab",
}


@pytest.mark.slow
def test_quick_run_reports_every_subject(tmp_path: Path) -> None:
    page, numbers = tmp_path / "page.md", tmp_path / "numbers.json"
    page.write_text(
        "# Head\n\n<!-- benchmarks: begin (written by python -m benchmarks --write) -->\nold\n"
        "<!-- benchmarks: end -->\n\nTail\n",
        encoding="utf-8",
    )
    arguments = ["--quick", "--workload", "mlp", "--json", str(numbers), "--write", str(page)]

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    results = json.loads(numbers.read_text(encoding="utf-8"))
    assert results["quick"]
    mlp = results["workloads"]["mlp"]
    assert set(mlp["subjects"]) == SUBJECTS
    for row in mlp["subjects"].values():
        assert row["rounds"] or row["note"].startswith("not measured")
    for level in ("steps", "auto", "tensors"):
        assert mlp["subjects"][level]["ratio"]["median"] > 0
        assert mlp["live_bytes"][level] == mlp["live_bytes"]["bare"]
    assert not results["start_up"]["imports_torch"]

    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Head\n")
    assert text.endswith("\n\nTail\n")
    assert "\nold\n" not in text
    for row in mlp["subjects"].values():
        assert f"| {row['title']} |" in text


def test_the_page_has_the_markers() -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")

    assert text.index("<!-- benchmarks: begin") < text.index("<!-- benchmarks: end -->")


def test_snapshots_are_measured_and_written(tmp_path: Path) -> None:
    page, numbers = tmp_path / "page.md", tmp_path / "numbers.json"
    begin, end = (
        "<!-- snapshots: begin (written by python -m benchmarks.snapshots --write) -->",
        "<!-- snapshots: end -->",
    )
    page.write_text(f"# Head\n\n{begin}\nold\n{end}\n\nTail\n", encoding="utf-8")
    arguments = ["--events", "3000", "--rounds", "1", "--tool", "memprof", "--json", str(numbers), "--write", str(page)]

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.snapshots", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    results = json.loads(numbers.read_text(encoding="utf-8"))
    assert results["file_bytes"] > 100_000
    assert results["tools"]["memprof"]["peak_bytes"] > 10 << 20
    text = page.read_text(encoding="utf-8")
    assert "| `memprof report` |" in text
    assert "\nold\n" not in text
    assert text.startswith("# Head\n")
    assert text.endswith("\n\nTail\n")
    documented = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert documented.index(begin) < documented.index(end)


def test_host_cost_is_written_between_its_markers(tmp_path: Path) -> None:
    from benchmarks import host_cost

    row = {"added_us": 120.0, "ratio": {"median": 1.1, "min": 1.0, "max": 1.2}}
    results = {
        "cores": 2,
        "torch": "2.14.1",
        "memprof": "0.1.0",
        "device": "a device that computes nothing",
        "load_before": 0.1,
        "load_after": 0.2,
        "workloads": {
            "mlp": {"title": "MLP", "bare_us": 900.0, "blocks": 39, "subjects": dict.fromkeys(host_cost.SUBJECTS, row)}
        },
    }
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")

    host_cost.write_between_markers(page, host_cost.to_markdown(results), begin=host_cost.BEGIN, end=host_cost.END)

    text = page.read_text(encoding="utf-8")
    assert "| MLP | nothing: 900 µs, 39 blocks allocated | | 1 | |" in text
    assert "| MLP | memprof, level `blocks` | 120 | 1.100 | 1.000 - 1.200 |" in text
    assert (
        text.index(host_cost.BEGIN)
        < text.index("| MLP | nothing: 900 µs, 39 blocks allocated |")
        < text.index(host_cost.END)
    )

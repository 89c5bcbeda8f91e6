"""A short run of the fuzz of the readers; CONTRIBUTING.md has the command for a long one."""

from __future__ import annotations

from pathlib import Path

from tests.unit.record.reader_fuzz import fuzz


def test_damaged_files_give_a_report_or_a_recording_error(tmp_path: Path) -> None:
    counts = fuzz(seconds=float("inf"), seed=0, files=[], folder=tmp_path, most=60)
    assert counts["report"] > 0
    assert counts["error"] > 0
    assert counts.total() == 60

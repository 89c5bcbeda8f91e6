"""Names of recordings."""

from __future__ import annotations

from pathlib import Path

from memprof.cli.run import free_name
from memprof.record.run_info import RunInfo
from memprof.record.writer import RecordingWriter


def test_runs_that_go_on_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "train.memprof"
    first, second = RecordingWriter(path, RunInfo()), RecordingWriter(tmp_path / "train.2.memprof", RunInfo())

    assert free_name(path) == tmp_path / "train.3.memprof"
    first.finish(RunInfo())
    assert free_name(path) == path  # an older recording is replaced
    second.finish(RunInfo())

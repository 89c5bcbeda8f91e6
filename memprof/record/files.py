"""Opens whatever memprof can diagnose: its own recordings and PyTorch's snapshots."""

from __future__ import annotations

import os

from memprof.record.reader import Recording, open_recording
from memprof.record.snapshot import is_snapshot, read_snapshot
from memprof.record.snapshot_view import SnapshotView


def open_file(path: str | os.PathLike[str]) -> Recording | SnapshotView:
    """Open a file by what it holds, not by its name.

    Args:
        path: A recording, or a pickle written by `torch.cuda.memory._dump_snapshot`.

    Returns:
        Something to hand to `memprof.diagnose`; close it, or use it in a `with` statement.

    Raises:
        RecordingError: It is neither, or damaged, or asks for code to be run.
        RecordingVersionError: It was written by a newer memprof.
    """
    if is_snapshot(path):
        return SnapshotView(read_snapshot(path), path)
    return open_recording(path)

"""`memprof export`: a recording becomes a file that other tools open."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from tests.integration.programs import LEAKY, analyze, memprof, python, said, write


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording in which every storage was watched."""
    folder = tmp_path_factory.mktemp("exported")
    write(folder, "train.py", LEAKY)
    analyze("--level", "tensors", "train.py", cwd=folder)
    return folder


def test_snapshot_beside_the_recording_by_default(recorded: Path) -> None:
    result = memprof("export", "train.memprof", "--format", "snapshot", cwd=recorded)

    assert result.returncode == 0, said(result)
    assert result.stdout == ""
    assert result.stderr == "snapshot: train.pickle\n"
    snapshot = pickle.loads((recorded / "train.pickle").read_bytes())
    assert {"parameter", "gradient"} <= {entry.get("category") for entry in snapshot["device_traces"][0]}
    lines = {frame["filename"] for entry in snapshot["device_traces"][0] for frame in entry["frames"]}
    assert any(line.endswith("train.py") for line in lines)


def test_perfetto_without_torch(recorded: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    source = (
        "import sys\nsys.modules['torch'] = None\nfrom memprof.cli import main\n"
        f"sys.argv = ['memprof', 'export', 'train.memprof', '--format', 'perfetto', '-o', {str(target)!r}]\nmain()\n"
    )
    write(tmp_path, "no_torch.py", source)

    result = python(str(tmp_path / "no_torch.py"), cwd=recorded)

    assert result.returncode == 0, said(result)
    events = json.loads(target.read_text())["traceEvents"]
    assert {"forward", "backward", "optimizer"} <= {event["name"] for event in events}
    assert any(event["name"].startswith("MP102") for event in events)


def test_a_recording_without_watched_storages_says_so(tmp_path: Path) -> None:
    write(tmp_path, "train.py", LEAKY)
    analyze("--level", "steps", "train.py", cwd=tmp_path)

    result = memprof("export", "train.memprof", "--format", "snapshot", cwd=tmp_path)

    assert result.returncode == 0, said(result)
    assert "no storage was watched, so the snapshot is empty; record with --level tensors" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing.memprof", "--format", "snapshot"), "there is no recording at nothing.memprof"),
        (("train.memprof", "--format", "snapshot", "-o", "none/x.pickle"), "create it first"),
        (("train.memprof",), "Missing option '--format'"),
        (("train.memprof", "--format", "gif"), "'gif' is not one of"),
    ],
)
def test_what_cannot_be_exported_is_one_line(recorded: Path, words: tuple[str, ...], message: str) -> None:
    result = memprof("export", *words, cwd=recorded)

    assert result.returncode == 2, said(result)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_snapshot_becomes_a_timeline_and_is_not_made_a_snapshot_again(tmp_path: Path) -> None:
    trace = [
        {"action": "segment_alloc", "addr": 1 << 40, "size": 2 << 20, "stream": 0, "time_us": 1, "frames": []},
        {"action": "alloc", "addr": 1 << 40, "size": 1 << 20, "stream": 0, "time_us": 5, "frames": []},
    ]
    (tmp_path / "memory.pickle").write_bytes(pickle.dumps({"segments": [], "device_traces": [trace]}))

    result = memprof("export", "memory.pickle", "--format", "perfetto", cwd=tmp_path)
    assert result.returncode == 0, said(result)
    events = json.loads((tmp_path / "memory.perfetto.json").read_text())["traceEvents"]
    assert max(sum(event["args"].values()) for event in events if event["ph"] == "C") == 1 << 20

    result = memprof("export", "memory.pickle", "--format", "snapshot", "-o", "again.pickle", cwd=tmp_path)
    assert result.returncode == 2, said(result)
    assert "memory.pickle is a snapshot of PyTorch already" in result.stderr
    assert not (tmp_path / "again.pickle").exists()

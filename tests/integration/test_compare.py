"""`memprof compare` puts two recordings side by side, without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.programs import TINY, analyze, memprof, python, said, write

KEEPS = TINY + "kept = []\nfor _ in range(12):\n    step()\n    kept.append(torch.zeros(256, 256))\n"
MENDED = KEEPS.replace("    kept.append", "    len(kept)  # kept.append")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recordings of a script before and after it was mended."""
    folder = tmp_path_factory.mktemp("compare")
    for name, source in (("before", KEEPS), ("after", MENDED)):
        write(folder, "train.py", source)
        analyze("-o", f"{name}.memprof", "train.py", cwd=folder)
    return folder


def test_a_mended_script_where_torch_is_not_installed(recorded: Path, tmp_path: Path) -> None:
    source = (
        "import sys\nsys.modules['torch'] = None\nfrom memprof.cli import main\n"
        "sys.argv = ['memprof', 'compare', 'before.memprof', 'after.memprof', '--format', 'json']\nmain()\n"
    )
    write(tmp_path, "no_torch.py", source)

    result = python(str(tmp_path / "no_torch.py"), cwd=recorded)

    assert result.returncode == 0, said(result)
    found = json.loads(result.stdout)
    assert [(item["status"], item["before"]["code"]) for item in found["findings"]] == [("gone", "MP103")]
    [device] = found["devices"]
    assert device["before"]["peak_allocated_bytes"] - device["after"]["peak_allocated_bytes"] > 11 * 256 * 256 * 4
    assert device["peak_increase"] < -0.5


def test_a_higher_peak_fails_a_build_where_that_is_asked_for(recorded: Path) -> None:
    for before, after, status in (("before", "after", 0), ("after", "before", 1)):
        result = memprof("compare", "--max-increase", "5", f"{before}.memprof", f"{after}.memprof", cwd=recorded)

        assert result.returncode == status, said(result)
        assert "peak on cpu" in result.stdout
    assert "new  MP103" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("before.memprof", "nothing.memprof"), "there is no recording at nothing.memprof"),
        (("before.memprof", "train.py"), "train.py is not a memprof recording"),
        (("before.memprof", "after.memprof", "--output", "after.memprof"), "would be overwritten"),
        (("before.memprof",), "Missing argument 'AFTER'"),
    ],
)
def test_wrong_usage(recorded: Path, arguments: tuple[str, ...], complaint: str) -> None:
    result = memprof("compare", *arguments, cwd=recorded)

    assert result.returncode == 2, said(result)
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr

"""`memprof fix`: edits that were tried, and written only where they can be taken back."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.programs import TINY, memprof, said, write

LEAKY = TINY + "history = []\nfor _ in range(12):\n    history.append(step())\nprint(float(sum(history)))\n"
KEEPS_TENSORS = TINY + (
    "history = []\nfor _ in range(12):\n    history.append(step())\nprint(torch.stack(history).sum().item())\n"
)


def fix(
    folder: Path, *args: str, status: int = 0, **options: Any
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = memprof("fix", "--format", "json", "--output", "fix.json", *args, cwd=folder, **options)
    assert done.returncode == status, said(done)
    return done, json.loads((folder / "fix.json").read_text(encoding="utf-8"))


def test_an_edit_is_tried_and_written_with_a_backup(tmp_path: Path) -> None:
    file = write(tmp_path, "train.py", LEAKY)
    _, found = fix(tmp_path, "--apply", "--backup", "train.py")
    (finding,) = found["findings"]
    assert (finding["code"], finding["status"], finding["remedy"]) == ("MP102", "verified", "item")
    assert finding["results"] in ("identical", "equal but for rounding")
    assert found["runs"] >= 2
    assert found["after"]["backwards"] == found["before"]["backwards"] == 12
    assert file.read_text(encoding="utf-8") == LEAKY.replace("append(step())", "append(step().item())")
    assert file.with_name("train.py.orig").read_text(encoding="utf-8") == LEAKY
    assert found["files"][0]["written"] is True


def test_where_a_number_will_not_do_a_tensor_without_history_is_kept(tmp_path: Path) -> None:
    file = write(tmp_path, "train.py", KEEPS_TENSORS)
    done = memprof("fix", "train.py", cwd=tmp_path)
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, said(done)
    assert "detach, verified" in text
    assert "item: the run fails: TypeError" in text
    assert "+ history.append(step().detach())" in text
    assert file.read_text(encoding="utf-8") == KEEPS_TENSORS


def test_a_module_is_edited_where_the_script_imports_it(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("12", encoding="utf-8")
    body = LEAKY.replace("range(12)", "range(int((Path(__file__).parent / 'data.txt').read_text()))")
    write(tmp_path, "pkg/__init__.py", "")
    write(tmp_path, "pkg/loop.py", "from pathlib import Path\n" + body.replace("'data.txt'", "'../data.txt'"))
    write(tmp_path, "train.py", "import pkg.loop\n")
    _, found = fix(tmp_path, "train.py")
    assert [Path(file["path"]).name for file in found["files"]] == ["loop.py"]
    assert found["findings"][0]["status"] == "verified"
    assert ".item()" not in (tmp_path / "pkg" / "loop.py").read_text(encoding="utf-8")


def test_without_a_run_an_edit_is_called_so(tmp_path: Path) -> None:
    file = write(tmp_path, "train.py", LEAKY)
    _, found = fix(tmp_path, "--no-verify", "--select", "MP102", "train.py")
    assert [finding["status"] for finding in found["findings"]] == ["unverified"]
    assert (found["after"], found["runs"]) == (None, None)
    assert file.read_text(encoding="utf-8") == LEAKY


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "name a script"),
        (("--backup", "train.py"), "give both"),
    ],
)
def test_what_cannot_work_is_told(tmp_path: Path, args: tuple[str, ...], says: str) -> None:
    done = memprof("fix", *args, cwd=tmp_path)
    assert done.returncode == 2, said(done)
    assert says in done.stderr

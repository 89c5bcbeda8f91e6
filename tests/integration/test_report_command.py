"""`memprof report` shows a recording again, without torch, and says in one line why it cannot."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from memprof.record.schema import FORMAT_VERSION
from tests.integration.programs import LEAKY, analyze, codes, memprof, python, said, write


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording and the report that `analyze` wrote."""
    folder = tmp_path_factory.mktemp("recorded")
    write(folder, "train.py", LEAKY)
    analyze("train.py", cwd=folder)
    return folder


def test_same_diagnosis_again_where_torch_is_not_installed(recorded: Path, tmp_path: Path) -> None:
    report_file, plot = tmp_path / "again.json", tmp_path / "again.svg"
    source = (
        "import sys\nsys.modules['torch'] = None\n"
        "from memprof.cli import main\n"
        f"sys.argv = ['memprof', 'report', 'train.memprof', '--format', 'json', '--output', {str(report_file)!r},"
        f" '--plot', {str(plot)!r}, '--fail-on', 'info']\n"
        "main()\n"
    )
    write(tmp_path, "no_torch.py", source)

    result = python(str(tmp_path / "no_torch.py"), cwd=recorded)

    assert result.returncode == 1, said(result)
    assert result.stderr == ""
    again = json.loads(report_file.read_text(encoding="utf-8"))
    assert again == json.loads((recorded / "report.json").read_text(encoding="utf-8"))
    assert codes(again) == ["MP102"]
    assert "<svg" in plot.read_text(encoding="utf-8")


def test_json_on_stdout_is_nothing_else_and_text_fits_80_columns(recorded: Path) -> None:
    as_json = memprof("report", "--format", "json", "train.memprof", cwd=recorded)
    as_text = memprof("report", "train.memprof", "--fail-on", "error", cwd=recorded, env={"COLUMNS": "80"})

    assert codes(json.loads(as_json.stdout)) == ["MP102"]
    assert as_text.returncode == 0, said(as_text)
    assert "train.py:18" in as_text.stdout
    assert max(map(len, as_text.stdout.splitlines())) <= 80
    assert "\033" not in as_text.stdout


def test_file_that_may_not_be_written_is_shown_all_the_same(recorded: Path, tmp_path: Path) -> None:
    shutil.copy(recorded / "train.memprof", tmp_path)
    (tmp_path / "train.memprof").chmod(0o444)
    (tmp_path / "train.memprof-wal").unlink(missing_ok=True)

    result = memprof("report", "train.memprof", cwd=tmp_path)

    assert result.returncode == 0, said(result)
    assert "MP102" in result.stdout


def nothing(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("epoch,loss\n1,0.5\n", encoding="utf-8")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tick (id)")
    connection.close()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000:] = b"\xa5" * (len(content) - 1000)
    path.write_bytes(content)


def without_tables(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE tick")
    connection.close()


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    connection.close()


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (nothing, "there is no recording at train.memprof; `memprof analyze SCRIPT` writes one"),
        (folder, "there is no recording at train.memprof"),
        (text, "train.memprof is not a memprof recording"),
        (empty, "train.memprof is not a memprof recording"),
        (other_database, "train.memprof is not a memprof recording"),
        (cut_short, "train.memprof is damaged and cannot be read"),
        (overwritten, "train.memprof is damaged and cannot be read"),
        (without_tables, "train.memprof is damaged and cannot be read"),
        (newer, f"train.memprof has recording format {FORMAT_VERSION + 1}; this memprof reads up to {FORMAT_VERSION}."),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_read_is_one_line(
    recorded: Path, tmp_path: Path, happens: Callable[[Path], None], message: str
) -> None:
    shutil.copy(recorded / "train.memprof", tmp_path)
    happens(tmp_path / "train.memprof")

    result = memprof("report", "train.memprof", cwd=tmp_path)

    assert result.returncode == 2, said(result)
    assert result.stdout == ""
    assert result.stderr.startswith(f"memprof: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "nowhere/a.png"], "memprof: cannot write 'nowhere/a.png': there is no folder "),
        (["--plot", "a.jpeg"], "memprof: cannot write a plot to 'a.jpeg': use a name that ends in .png, .svg, .pdf"),
        (["--output", "train.py/a.txt"], "memprof: cannot write 'train.py/a.txt': there is no folder "),
        (["--output", "."], "is a directory"),
    ],
)
def test_report_that_cannot_be_written_is_refused(recorded: Path, options: list[str], message: str) -> None:
    result = memprof("report", "train.memprof", *options, cwd=recorded)

    assert result.returncode == 2, said(result)
    assert message in result.stderr
    assert result.stdout == ""


def test_report_as_a_page(recorded: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    result = memprof("report", "train.memprof", "--format", "html", "--output", str(page), cwd=recorded)

    assert result.returncode == 0, said(result)
    assert result.stdout == ""
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "MP102" in text
    assert "<code>train.py:18" in text


@pytest.mark.parametrize(
    "command",
    [
        ("report", "train.memprof", "--output", "train.memprof"),
        ("report", "train.memprof", "--output", "./linked.memprof"),
        ("export", "train.memprof", "--format", "perfetto", "-o", "train.memprof"),
        ("whatif", "train.memprof", "--advise", "--output", "train.memprof"),
        ("analyze", "--output", "train.memprof", "train.py"),
        ("analyze", "--output", "train.py", "train.py"),
        ("fix", "--output", "train.py", "train.py"),
    ],
)
def test_what_a_report_is_about_is_never_overwritten(recorded: Path, command: tuple[str, ...]) -> None:
    linked = recorded / "linked.memprof"
    if not linked.exists():
        linked.symlink_to("train.memprof")
    before = [(recorded / name).read_bytes() for name in ("train.py", "train.memprof")]

    result = memprof(*command, cwd=recorded)

    assert result.returncode == 2, said(result)
    assert "is what the report is about and would be overwritten; choose another name" in result.stderr
    assert [(recorded / name).read_bytes() for name in ("train.py", "train.memprof")] == before

"""Files are written only where they can be had back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from memprof._errors import OutputError
from memprof.advise.edits.plan import EditedFile, EditedFiles
from memprof.advise.edits.source import SourceFile
from memprof.advise.edits.writing import write_files


def edited(file: Path) -> EditedFiles:
    path = str(file.resolve())
    return EditedFiles({path: EditedFile(SourceFile.read(path), SourceFile(path, b"a = 2\n"))})


def git(folder: Path, *args: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text("a = 1\n", encoding="utf-8")
    return path


def test_a_file_outside_git_is_not_written(file: Path) -> None:
    with pytest.raises(OutputError, match="it is not in git; commit it, or keep a copy with --backup"):
        write_files(edited(file), backup=False)
    assert file.read_text() == "a = 1\n"


def test_a_file_with_changes_is_not_written(file: Path) -> None:
    git(file.parent, "init", "-q")
    with pytest.raises(OutputError, match="it is not in git"):
        write_files(edited(file), backup=False)
    git(file.parent, "add", "train.py")
    with pytest.raises(OutputError, match="changes that are not committed"):
        write_files(edited(file), backup=False)


def test_a_committed_file_is_written(file: Path) -> None:
    git(file.parent, "init", "-q")
    git(file.parent, "add", "train.py")
    git(file.parent, "commit", "-qm", "x")
    assert write_files(edited(file), backup=False) == (str(file.resolve()),)
    assert file.read_text() == "a = 2\n"


def test_a_backup_is_never_overwritten(file: Path) -> None:
    files = edited(file)
    write_files(files, backup=True)
    assert file.with_name("train.py.orig").read_text() == "a = 1\n"
    with pytest.raises(OutputError, match=r"train.py.orig exists"):
        write_files(files, backup=True)


def test_a_file_that_has_changed_meanwhile_is_not_written(file: Path) -> None:
    files = edited(file)
    file.write_text("a = 3\n", encoding="utf-8")
    with pytest.raises(OutputError, match="has changed while the edits were tried"):
        write_files(files, backup=True)

"""Finding and reading files; one program of several."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from memprof._errors import UsageError
from memprof.lint import LintOptions, check_paths, lint_paths
from memprof.lint.files import SourceFile, Unreadable, find_files, from_bytes, read
from tests.unit.lint.programs import program

LEAKY = program(
    """
    total = 0.0
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        total += loss
    """
)


def write(folder: Path, name: str, text: str = LEAKY) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def found(folder: Path, *, exclude: tuple[str, ...] = ()) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files([folder], exclude, folder)]


def test_folders_are_walked_in_order_and_without_environments(tmp_path: Path) -> None:
    for name in (
        "b.py",
        "a/z.py",
        "a/n.ipynb",
        ".venv/x.py",
        "venv/y.py",
        "build/z.py",
        "notes.txt",
        "__pycache__/c.py",
    ):
        write(tmp_path, name)

    assert found(tmp_path) == ["b.py", "a/n.ipynb", "a/z.py"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [("a", ["b.py"]), ("z.py", ["b.py", "a/y.py"]), ("a/*.py", ["b.py"]), ("a/z.py", ["b.py", "a/y.py"]), ("*.py", [])],
)
def test_patterns_leave_files_out(tmp_path: Path, pattern: str, left: list[str]) -> None:
    for name in ("b.py", "a/y.py", "a/z.py"):
        write(tmp_path, name)

    assert found(tmp_path, exclude=(pattern,)) == left


def test_a_file_that_is_named_is_taken_once_whatever_it_is_called(tmp_path: Path) -> None:
    path = write(tmp_path, "build/script")

    assert find_files([path, path], (), tmp_path) == [path]


@pytest.mark.parametrize("name", ["old/train.py", "build/train.py", "old", "src/.venv/train.py"])
def test_what_is_excluded_is_left_out_by_force_where_it_is_named(tmp_path: Path, name: str) -> None:
    kept = write(tmp_path, "src/train.py")
    path = tmp_path / name
    path.mkdir() if path.suffix == "" else write(tmp_path, name)

    assert find_files([path, kept], ("old",), tmp_path, force=True) == [kept]
    assert kept in find_files([path, kept], ("old",), tmp_path)
    assert find_files([kept], (), tmp_path / "elsewhere", force=True) == [kept]


def test_options_carry_the_force(tmp_path: Path) -> None:
    path = write(tmp_path, "train.py")
    options = LintOptions(exclude=("train.py",), root=tmp_path)

    assert [item.code for item in lint_paths([path], options)] == ["MP101"]
    assert lint_paths([path], replace(options, force_exclude=True)) == []


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file or folder"):
        find_files([tmp_path / "missing.py"], (), tmp_path)


def test_one_bad_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "import torch\nfor x in:\n")
    (tmp_path / "b.py").write_bytes(b"# coding: utf-8\nx = '\xff'\n")
    (tmp_path / "c.py").write_bytes(b"x = 1\0")
    write(tmp_path, "d.ipynb", "{}")
    write(tmp_path, "e.ipynb", "not JSON")
    write(tmp_path, "good.py")

    result = check_paths([tmp_path])

    assert [Path(item.file).name for item in result.findings] == ["good.py"]
    assert [(Path(item.file).name, item.line) for item in result.unreadable] == [
        ("a.py", 2),
        ("b.py", 1),
        ("c.py", 1),
        ("d.ipynb", 1),
        ("e.ipynb", 1),
    ]
    assert all(item.reason.startswith("cannot be ") for item in result.unreadable)
    assert result.files == 1
    assert lint_paths([tmp_path]) == list(result.findings)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python knows the syntax")
@pytest.mark.parametrize("line", ["type X = int", "def first[T](items): pass", "    class Box[T]: pass"])
def test_newer_syntax_is_told_of(tmp_path: Path, line: str) -> None:
    text = f"import torch\nif True:\n{line}\n" if line.startswith(" ") else f"import torch\n\n{line}\n"
    write(tmp_path, "new.py", text)
    write(tmp_path, "old.py", "import torch\n\nprint 'x'\n")

    new, old = check_paths([tmp_path]).unreadable

    assert new.line == 3
    assert "looks like Python 3.12" in new.reason
    assert "3.12" not in old.reason


def test_no_file_and_files_without_torch(tmp_path: Path) -> None:
    assert check_paths([tmp_path]).files == 0
    write(tmp_path, "plain.py", "total = 0\nfor i in range(3):\n    total += i\n")

    assert check_paths([tmp_path]).findings == ()


def test_very_deep_code_is_an_error_of_its_file(tmp_path: Path) -> None:
    write(tmp_path, "deep.py", "import torch\nx = " + "(" * 5000 + ")" * 5000 + "\n")
    write(tmp_path, "good.py")

    result = check_paths([tmp_path])

    assert [Path(item.file).name for item in result.findings] == ["good.py"]
    assert [Path(item.file).name for item in result.unreadable] == ["deep.py"]


@pytest.mark.parametrize(
    "text",
    [
        "x = " + " + ".join(["1"] * 900),
        "x = " + "f(" * 80 + ")" * 80,
        "x = " + "a" + ".b()" * 160,
        "if a:\n    pass\n" + "elif b:\n    pass\n" * 900,
    ],
)
def test_deeply_nested_code_is_an_error_of_its_file(tmp_path: Path, text: str) -> None:
    write(tmp_path, "long.py", f"import torch\n{text}\n")
    write(tmp_path, "table.py", f"{text}\n")
    write(tmp_path, "good.py")

    result = check_paths([tmp_path])

    assert [Path(item.file).name for item in result.findings] == ["good.py"]
    reasons = [item.reason for item in result.unreadable if item.file.endswith("long.py")]
    assert reasons in ([], ["cannot be checked: code is nested more than 150 levels deep"])
    assert all(item.file.endswith("long.py") for item in result.unreadable)


def test_code_just_below_the_limit_is_checked(tmp_path: Path) -> None:
    deep = "loss = " + "f(" * 70 + "0" + ")" * 70
    long = "loss = " + " + ".join(["x"] * 140)
    chain = "if a:\n    pass\n" + "".join(f"elif b == {i}:\n    pass\n" for i in range(140))
    write(tmp_path, "train.py", f"{LEAKY}\n{deep}\n{long}\n{chain}")

    result = check_paths([tmp_path])

    assert [item.code for item in result.findings] == ["MP101"]
    assert result.unreadable == ()


def test_functions_of_other_files_are_followed(tmp_path: Path) -> None:
    write(
        tmp_path,
        "engine.py",
        "def train(model, loader, criterion, optimizer):\n    total = 0\n    for x, y in loader:\n"
        "        loss = criterion(model(x), y)\n        loss.backward()\n        optimizer.step()\n        total += loss\n",
    )
    write(tmp_path, "main.py", program("from engine import train\ntrain(model, loader, criterion, optimizer)\n"))

    assert [(Path(item.file).name, item.line) for item in lint_paths([tmp_path])] == [("engine.py", 7)]


# ---- notebooks -------------------------------------------------------------------------------


def notebook(*cells: str) -> str:
    return json.dumps(
        {
            "nbformat": 4,
            "cells": [{"cell_type": "markdown", "source": ["# Title"]}]
            + [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells],
        }
    )


def test_notebooks_are_checked_by_cell(tmp_path: Path) -> None:
    head, tail = LEAKY.split("total = 0.0")
    write(
        tmp_path, "n.ipynb", notebook("%matplotlib inline\n!pip install x\n" + head, "%%bash\nls", "total = 0.0" + tail)
    )

    (finding,) = lint_paths([tmp_path])

    assert (finding.code, finding.cell, finding.line, finding.end_line) == ("MP101", 4, 5, 5)


def test_a_cell_that_cannot_be_parsed_is_named() -> None:
    source = from_bytes(notebook("import torch", "x = (").encode(), "n.ipynb")

    assert isinstance(source, SourceFile)
    from memprof.lint.run import check_sources

    (error,) = check_sources([source], LintOptions()).unreadable
    assert "cell 3" in error.reason


def test_text_in_another_encoding_and_columns_in_characters(tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    text = "# -*- coding: latin-1 -*-\n" + LEAKY.replace("total += loss", "'é'; total += loss")
    path.write_bytes(text.encode("latin-1"))

    source = read(path)
    (finding,) = lint_paths([path])

    assert isinstance(source, SourceFile)
    assert source.text.splitlines()[finding.line - 1][finding.column - 1 :] == "total += loss"


def test_standard_input_that_is_no_text() -> None:
    assert isinstance(from_bytes(b"\xff\xfe\xff", "x.py"), Unreadable)
    assert isinstance(from_bytes(b"# coding: nonsense\n", "x.py"), Unreadable)

"""Python out of notebooks, as IPython takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memprof.lint import check_paths
from memprof.lint.notebooks import read_notebook


def notebook(*cells: str) -> bytes:
    return json.dumps({"cells": [{"cell_type": "code", "source": cell} for cell in cells]}).encode()


@pytest.mark.parametrize(
    ("cell", "python"),
    [
        ("%run train.py \\\n  --mode train \\\n    --lr 0.1\nx = 1", "pass\n\n\nx = 1"),
        ("!wget a \\\nb && \\\nc\nx = 1", "pass\n\n\nx = 1"),
        ("if x:\n    !ls\n    y = 2", "if x:\n    pass\n    y = 2"),
        ("files = !ls *.py\nx = 1", "files = None\nx = 1"),
        ("timed = %timeit -o f()", "timed = None"),
        ("  with a:\n    b()\n  c()", "with a:\n  b()\nc()"),
        ("ls -l text.txt\ncd ..", "pass\npass"),
        ("model?\n?model\nmodel??", "pass\npass\npass"),
        ("%%bash\ncat x", "\n"),
        ("%%time\ntrain()", "pass\ntrain()"),
    ],
)
def test_what_only_ipython_understands_is_put_out_of_the_way(cell: str, python: str) -> None:
    found = read_notebook(notebook(cell))

    assert found.text == f"{python}\n"
    assert found.broken == ()


@pytest.mark.parametrize(
    "cell", ["text = ('%d of %d'\n        % (a, b))", "'''\n! no command\n%no magic\n'''", "cat = 1\nls = cat - 2"]
)
def test_python_that_looks_like_magic_is_left_as_it_is(cell: str) -> None:
    assert read_notebook(notebook(cell)).text == f"{cell}\n"


def test_a_broken_cell_does_not_stop_the_others(tmp_path: Path) -> None:
    loop = "total = 0\nfor x, y in loader:\n    loss = criterion(model(x), y)\n    loss.backward()\n    total += loss"
    path = tmp_path / "n.ipynb"
    path.write_bytes(notebook("import torch", "\nprint 'old'", loop))

    result = check_paths([path])

    (finding,) = result.findings
    (error,) = result.unreadable
    assert (finding.code, finding.cell, finding.line) == ("MP101", 3, 5)
    assert error.line == 2
    assert "cell 2" in error.reason


def test_a_notebook_with_several_broken_cells_is_told_of_once(tmp_path: Path) -> None:
    path = tmp_path / "n.ipynb"
    path.write_bytes(notebook("import torch", "x = <YOUR CODE>", "y = <YOUR CODE>", "def f(:"))

    (error,) = check_paths([path]).unreadable

    assert "cell 2: " in error.reason
    assert "and 2 more; the other cells were checked" in error.reason


@pytest.mark.parametrize("data", [b"{}", b"[]", b"nothing", b'{"cells": 3}'])
def test_what_is_no_notebook(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"notebook|Expecting"):
        read_notebook(data)

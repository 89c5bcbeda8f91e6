"""Another text in place of a file's own, and what makes runs comparable."""

from __future__ import annotations

import importlib
import linecache
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from memprof.capture.comparison import LossLog, seed
from memprof.capture.overlay import overlaid, overlaid_text
from memprof.capture.script import load_module, load_script


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "overlaid_pkg"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "part.py").write_text("value = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("overlaid_pkg")]:
        del sys.modules[name]


def test_a_module_has_the_text_given_and_its_own_path(package: Path) -> None:
    path = package / "part.py"
    with overlaid({str(path): b"value = 2\nplace = __file__\n"}):
        module = importlib.import_module("overlaid_pkg.part")
        assert (module.value, module.place) == (2, str(path))
        assert linecache.getline(str(path), 2) == "place = __file__\n"
    assert path.read_text(encoding="utf-8") == "value = 1\n"
    assert not list(package.rglob("part*.pyc"))
    assert overlaid_text(path) is None
    assert linecache.getline(str(path), 2) == ""
    del sys.modules["overlaid_pkg.part"]
    assert importlib.import_module("overlaid_pkg.part").value == 1


def test_other_modules_are_their_own(package: Path) -> None:
    (package / "other.py").write_text("value = 3\n", encoding="utf-8")
    before = list(sys.meta_path)
    with overlaid({str(package / "part.py"): b"value = 2\n"}):
        assert importlib.import_module("overlaid_pkg.other").value == 3
    assert sys.meta_path == before


def test_a_script_is_compiled_from_the_text_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train.py"
    script.write_text("answer = 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with overlaid({str(script): b"answer = 2\n"}):
        program = load_script("./train.py", ())
        namespace: dict[str, object] = {}
        exec(program.code, namespace)
        assert namespace["answer"] == 2
        assert linecache.getline(program.file, 1) == "answer = 2\n"
    assert linecache.getline(program.file, 1) == "answer = 1\n"


def test_a_module_that_is_run_is_compiled_from_the_text_given(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(package.parent)
    with overlaid({str(package / "part.py"): b"answer = 2\n"}):
        program = load_module("overlaid_pkg.part", ())
    namespace: dict[str, object] = {}
    exec(program.code, namespace)
    assert namespace["answer"] == 2


# ---- losses ----------------------------------------------------------------------------------


def test_every_root_of_every_backward_is_noted() -> None:
    weight = torch.ones(2, requires_grad=True)
    engine = torch.autograd.backward
    with LossLog() as log:
        (weight * 3).sum().backward()
        (weight * 2).backward(torch.ones(2))
        torch.autograd.grad((weight * 5).sum(), weight)
    (weight * 7).sum().backward()
    assert list(log.values) == [6.0, 4.0, 10.0]
    assert torch.autograd.backward is engine


def test_what_is_noted_is_exact_and_holds_nothing() -> None:
    weight = torch.tensor([0.1], requires_grad=True)
    with LossLog() as log:
        loss = (weight * weight).sum()
        loss.backward()
    assert list(log.values) == [loss.item()]
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(0.2)


def test_seeds_make_runs_the_same() -> None:
    def drawn() -> tuple[float, float, float]:
        seed()
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    assert drawn() == drawn()

"""Which statement stores tensors in a holder."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from memprof.detect.source import adds_to, line_text, storing_statement, with_imports
from memprof.record.census import Holder
from memprof.record.events import Location

# (holder name, holder kind, program). `# made` marks the line that made the tensors and `# here`
# the statement that stores them; without the latter no statement may be named.
CASES = {
    "append": (
        "history",
        "local",
        "history = []\nfor x in y:\n    loss = f(x)  # made\n    history.append(loss)  # here\n",
    ),
    "add": ("total", "global", "total = 0\nfor x in y:\n    loss = f(x)\n    total += loss  # made here\n"),
    "rebinding with itself": ("total", "local", "total = 0\nfor x in y:\n    total = total + f(x)  # made here\n"),
    "item": ("cache", "global", "cache = {}\nfor i in y:\n    cache[i] = f(i)  # made here\n"),
    "setdefault": (
        "log['loss']",
        "local",
        "log = {}\nfor x in y:\n    loss = f(x)  # made\n    log.setdefault('loss', []).append(loss)  # here\n",
    ),
    "setdefault, then append": (
        "log['loss']",
        "local",
        "log = {}\nfor x in y:\n    log.setdefault('loss', [])\n    loss = f(x)  # made\n    log['loss'].append(loss)  # here\n",
    ),
    "attribute": (
        "sum",
        "attribute",
        "sum = 0\nsum += 1\nclass Meter:\n    def update(self, value):\n        self.sum += value  # made here\n",
    ),
    "nested attribute": (
        "feats",
        "attribute",
        "class M:\n    def f(self, x):\n        y = g(x)  # made\n        self.bank.feats.append(y)  # here\n",
    ),
    "the append of what was made": (
        "h",
        "local",
        "a = f()\nh.append(a)\nb = f()  # made\nx = 1\nh.append(b)  # here\n",
    ),
    "the same function": (
        "h",
        "global",
        "def old():\n    h.append(1)\ndef train():\n    f()  # made\n    h.append(2)  # here\n",
    ),
    "growing before rebinding": ("h", "local", "h = load()\nf()  # made\nh = h + [2]  # here\n"),
    "plain rebinding": ("state", "local", "for x in y:\n    out, state = rnn(x, state)  # made here\n"),
    "subscripted target": ("h", "local", "h = []\nf()  # made\nh[0].append(2)  # here\n"),
    "annotated": ("total", "local", "f()  # made\ntotal: Tensor = total + f()  # here\n"),
    "only an empty list": ("h", "local", "h = []\nf()  # made\n"),
    "another name": ("h", "local", "history.append(f())  # made\n"),
    "a call that does not store": ("h", "local", "f()  # made\nh.clear()\nh.index(3)\n"),
    "no name": ("", "unknown", "h.append(f())  # made\n"),
}


@pytest.mark.parametrize("case", CASES)
def test_storing_statement(case: str, tmp_path: Path) -> None:
    name, kind, program = CASES[case]
    file = tmp_path / f"{case.replace(' ', '_')}.py"
    file.write_text(program)
    lines = program.splitlines()
    made = next(number for number, line in enumerate(lines, 1) if "# made" in line)
    wanted = next((number for number, line in enumerate(lines, 1) if line.endswith("here")), None)
    function = "train" if "def train" in program else "<module>"
    found = storing_statement(Holder(kind=kind, text="", name=name), Location(str(file), made, function), [str(file)])
    assert (None if found is None else found.line) == wanted
    if found is not None:
        assert found.file == str(file)


def test_the_function_of_the_statement_is_qualified(tmp_path: Path) -> None:
    file = tmp_path / "meter.py"
    file.write_text("class Meter:\n    def update(self, v):\n        self.sum += v\n")
    found = storing_statement(Holder("attribute", "", "sum"), None, [str(file)])
    assert found == Location(str(file), 3, "Meter.update")


def test_the_holder_in_another_file_than_the_maker(tmp_path: Path) -> None:
    model, train = tmp_path / "model.py", tmp_path / "train.py"
    model.write_text("def f(x):\n    return x + 1\n")
    train.write_text("history = []\nhistory.append(f(1))\n")
    found = storing_statement(Holder("global", "", "history"), Location(str(model), 2, "f"), [str(model), str(train)])
    assert found is not None
    assert (found.file, found.line) == (str(train), 2)


@pytest.mark.parametrize("content", ["def (:\n", "\0", "x = " + "(" * 300 + ")" * 300])
def test_a_file_that_does_not_parse_gives_nothing(content: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(content)
    assert storing_statement(Holder("local", "", "h"), Location(str(file), 1, "f"), [str(file)]) is None


def test_a_file_that_is_gone_gives_nothing() -> None:
    gone = Location("/nowhere/x.py", 3, "f")
    assert storing_statement(Holder("local", "", "h"), gone, [gone.file]) is None
    assert line_text(gone) == ""


def test_line_text_has_no_indentation(tmp_path: Path) -> None:
    file = tmp_path / "indented.py"
    file.write_text(textwrap.dedent("def f():\n    return 1\n"))
    assert line_text(Location(str(file), 2, "f")) == "return 1"


@pytest.mark.parametrize(
    ("line", "name", "adds"),
    [
        (1, "history", True),
        (2, "recent", False),
        (3, "total", True),
        (4, "table['a']", True),
        (5, "history", False),
    ],
)
def test_a_statement_adds_to_a_holder_or_binds_it_anew(line: int, name: str, adds: bool, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(
        "history.append(loss)\nrecent = history[-4:]\ntotal = total + loss\ntable['a'].extend(out)\nother(history)\n"
    )
    assert adds_to(Location(str(file), line, "<module>"), Holder("local", "", name)) is adds
    assert not adds_to(None, Holder("local", "", name))


def test_modules_beside_a_file_belong_to_its_program(tmp_path: Path) -> None:
    for name, text in {
        "train.py": "import os\nimport engine\nfrom parts.models import Net\n",
        "engine.py": "from callbacks import History\nimport train\n",
        "callbacks.py": "import torch\n",
        "parts/models.py": "from . import layers\n",
        "parts/layers.py": "",
        "other.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    found = with_imports([str(tmp_path / "train.py")])

    names = [Path(file).relative_to(tmp_path).as_posix() for file in found]
    assert names == ["train.py", "engine.py", "parts/models.py", "callbacks.py", "parts/layers.py"]

"""Tests for which variable keeps a tensor, by the source."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from memprof.detect.source import targets_assigned_at
from memprof.detect.variables import binding_of
from memprof.record.events import Location


class Script:
    """A script on disk; its lines are found by what they say."""

    def __init__(self, folder: Path, text: str) -> None:
        self.path = folder / "script.py"
        self.path.write_text(dedent(text), encoding="utf-8")

    def at(self, text: str) -> Location:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return Location(str(self.path), next(n for n, line in enumerate(lines, start=1) if text in line), "")

    def keeps(self, made: str, running: str) -> tuple[str, int] | None:
        found = binding_of(self.at(made), self.at(running), [str(self.path)])
        return None if found is None else (", ".join(found.names), found.location.line)


IN_A_STEP = """\
def step(model, raw):
    {before}
    spectrum = torch.stft(raw)
    batch = spectrum.abs()
    {after}
    loss = model(batch)
    loss.backward()
    {last}
"""


def test_a_variable_of_the_function_that_asks_for_the_pass(tmp_path: Path) -> None:
    script = Script(tmp_path, IN_A_STEP.format(before="", after="", last=""))
    assert script.keeps("torch.stft", "loss.backward()") == ("spectrum", 3)


@pytest.mark.parametrize(
    "line",
    [
        "history.append(spectrum)",
        'history.append({"raw": raw, "spectrum": spectrum})',
        "self.last = spectrum",
        "cache[0] = (spectrum, raw)",
    ],
)
def test_a_variable_that_is_stored_elsewhere_does_not_keep_it_alone(tmp_path: Path, line: str) -> None:
    script = Script(tmp_path, IN_A_STEP.format(before="", after=line, last=""))
    assert script.keeps("torch.stft", "loss.backward()") is None


@pytest.mark.parametrize("line", ["sums.append(spectrum.sum())", "self.mean = spectrum.mean()", "print(spectrum)"])
def test_what_is_computed_from_a_variable_does_not_keep_it(tmp_path: Path, line: str) -> None:
    script = Script(tmp_path, IN_A_STEP.format(before="", after=line, last=""))
    assert script.keeps("torch.stft", "loss.backward()") == ("spectrum", 3)


def test_a_variable_of_a_function_that_has_returned_keeps_nothing(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """\
        def save(model):
            weights = copy.deepcopy(model.state_dict())
            torch.save(weights, "model.pt")


        def train(model):
            loss = model(1)
            save(model)
            loss.backward()


        for _ in range(3):
            train(model)
        """,
    )
    assert script.keeps("weights =", "loss.backward()") is None
    assert script.keeps("loss = model", "loss.backward()") == ("loss", 7)


def test_a_variable_of_a_caller(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """\
        class Trainer:
            def step(self, batch):
                self.model(batch).sum().backward()

            def turn(self, batch):
                self.step(batch)

            def fit(self):
                for _ in range(4):
                    raw = torch.randn(4)
                    self.turn(raw / 2)
        """,
    )
    assert script.keeps("raw = torch", ".backward()") == ("raw", 10)


def test_a_generator_waits_with_its_variables(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """\
        def batches():
            while True:
                raw = torch.randn(4)
                yield raw / 2


        for batch in batches():
            model(batch).sum().backward()
        """,
    )
    assert script.keeps("raw = torch", ".backward()") == ("raw", 3)


def test_what_a_generator_gives_away_is_its_readers_too(tmp_path: Path) -> None:
    text = "def batches():\n    raw = torch.randn(4)\n    yield raw\n\n\nfor batch in batches():\n    model(batch)\n"
    assert Script(tmp_path, text).keeps("raw = torch", "model(batch)") is None


HELPER = """\
def stft(wave):
    return torch.stft(wave)


for _ in range(3):
    spectrum = stft(torch.randn(4))
    {more}
    loss = model(spectrum.abs())
    loss.backward()
"""


def test_what_a_function_returns_is_kept_by_what_its_caller_assigns_it_to(tmp_path: Path) -> None:
    assert Script(tmp_path, HELPER.format(more="pass")).keeps("return torch.stft", "loss.backward()") == ("spectrum", 6)


def test_of_two_callers_nobody_knows_which(tmp_path: Path) -> None:
    script = Script(tmp_path, HELPER.format(more="other = stft(torch.randn(4))"))
    assert script.keeps("return torch.stft", "loss.backward()") is None


def test_an_attribute_keeps_it_whoever_has_returned(tmp_path: Path) -> None:
    script = Script(
        tmp_path,
        """\
        class Data:
            def prepare(self):
                self.spectrum = torch.stft(self.wave)


        data.prepare()
        model(data.batch).sum().backward()
        """,
    )
    assert script.keeps("self.spectrum", ".backward()") == ("self.spectrum", 3)


def test_a_container_is_no_variable(tmp_path: Path) -> None:
    script = Script(tmp_path, "kept[index] = torch.randn(4)\nmodel(1).sum().backward()\n")
    assert script.keeps("kept[index]", ".backward()") is None


@pytest.mark.parametrize(
    ("statement", "targets"),
    [
        ("out = f()", {"out"}),
        ("out: Tensor = f()", {"out"}),
        ("a, (b, *c) = f()", {"a", "b", "c"}),
        ("self.out, cache['x'] = f()", {"self.out", "cache['x']"}),
        ("total += f()", {"total"}),
        ("f()", set()),
    ],
)
def test_targets_are_as_the_source_writes_them(tmp_path: Path, statement: str, targets: set[str]) -> None:
    assert targets_assigned_at(Script(tmp_path, statement + "\n").at("f()")) == targets

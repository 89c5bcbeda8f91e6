"""What comprehensions, `list()`, `sum()`, and keys that count gather over training iterations: MP101, MP102."""

from __future__ import annotations

import pytest

from tests.unit.lint.programs import findings, lines

STEP = """\
def step(x, y):
    output = model(x)
    loss = criterion(output, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss

def steps(loader):
    for x, y in loader:
        yield step(x, y)

"""
LOOP = "for x, y in loader:\n"

LEAKY = {
    "a list comprehension": ("losses = [step(x, y) for x, y in loader]", "MP102"),
    "a dict comprehension": ("losses = {number: step(x, y) for number, (x, y) in enumerate(loader)}", "MP102"),
    "a list of a generator": ("losses = list(step(x, y) for x, y in loader)", "MP102"),
    "a list of what a function yields": ("losses = list(steps(loader))", "MP102"),
    "a sum": ("total = sum(step(x, y) for x, y in loader)", "MP101"),
    "a sum of what a function yields": ("total = sum(steps(loader))", "MP101"),
}


@pytest.mark.parametrize("name", LEAKY)
def test_found(name: str) -> None:
    text, code = LEAKY[name]
    assert lines(STEP + text, findings(STEP + text)) == [(code, text)]


FINE = {
    "numbers": "losses = [step(x, y).item() for x, y in loader]",
    "detached": "losses = list(loss.detach() for loss in steps(loader))",
    "the largest": "largest = max(step(x, y) for x, y in loader)",
    "losses of one iteration": """\
for x, y in loader:
    losses = [criterion(model(x), y) for _ in range(3)]
    optimizer.zero_grad()
    sum(losses).backward()
    optimizer.step()
""",
}


@pytest.mark.parametrize("name", FINE)
def test_not_found(name: str) -> None:
    assert lines(STEP + FINE[name], findings(STEP + FINE[name])) == []


KEPT = {
    "several sums at once": (
        "sums = [0.0, 0.0]\n" + LOOP + "    losses = step(x, y), step(x, y)\n",
        "sums = [a + b for a, b in zip(sums, losses)]",
        "MP101",
    ),
    "sums by name": (
        "sums = {'a': 0.0}\n" + LOOP + "    losses = {'a': step(x, y)}\n",
        "sums = {name: sums[name] + loss for name, loss in losses.items()}",
        "MP101",
    ),
    "a key that counts": (
        "losses = {}\nfor number, (x, y) in enumerate(loader):\n",
        "losses.update({number: step(x, y)})",
        "MP102",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_over_iterations(name: str) -> None:
    text, line, code = KEPT[name]
    text = f"{STEP}{text}    {line}\n"
    assert lines(text, findings(text)) == [(code, line)]


def test_sums_made_anew_are_fine() -> None:
    text = STEP + LOOP + "    losses = step(x, y), step(x, y)\n    doubled = [a + b for a, b in zip(losses, losses)]\n"
    assert findings(text) == []


COUNTED = """
class Trainer:
    def __init__(self):
        self.number = 0
        self.outputs = {}

    def step(self, x, y):
        output = model(x)
        loss = criterion(output, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        self.outputs[KEY] = output
        self.number += 1

    def fit(self):
        for x, y in loader:
            self.step(x, y)

Trainer().fit()
"""


def test_an_attribute_that_counts_is_another_key_each_time() -> None:
    text = COUNTED.replace("KEY", 'f"step {self.number}"')
    assert [item.code for item in findings(text)] == ["MP102"]
    assert findings(COUNTED.replace("KEY", '"latest"')) == []

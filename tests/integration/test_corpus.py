"""`memprof analyze` on the corpus: precise enough, complete enough, and without any effect on the run."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from memprof.detect import RULES
from tests.corpus.foreign import as_reported
from tests.corpus.labels import HELD_OUT, LabelError, Script, load, load_folder
from tests.corpus.runner import Run, Runner
from tests.corpus.score import HELD_OUT_THRESHOLDS, score, table
from tests.corpus.tools import Reported, Result, as_result

SCRIPTS = load()
ON_CPU = tuple(script for script in SCRIPTS if script.runs_on("cpu"))
NOT_TUNED_FOR = load(root=HELD_OUT)
"""Labelled before any tool had seen them; see docs/accuracy.md."""
LONG = ("language/whole_book_leaky.py", "clean/auc_on_host.py", "clean/actor_critic_two_backwards.py")
"""Those of them that take longest."""
ALL = SCRIPTS + NOT_TUNED_FOR
LEAST_LEAKY = 3
LEAST_CLEAN = 25

AWAITED: frozenset[str] = frozenset()
"""Rules whose scripts are still to be written."""

GIVES_AWAY = re.compile(r"\b(leak(s|y|ed|ing|age)?|bugs?|mistakes?|memprof|MP\d+)\b", re.IGNORECASE)


# ---- the labels --------------------------------------------------------------------------------


def test_every_rule_that_needs_no_cuda_has_leaky_scripts() -> None:
    leaky = Counter(code for script in ON_CPU for code in {item.code for item in script.expected})

    few = {rule.code: leaky[rule.code] for rule in RULES if not rule.needs_cuda and leaky[rule.code] < LEAST_LEAKY}

    assert set(few) <= AWAITED, few


def test_every_label_names_a_rule() -> None:
    known = {rule.code for rule in RULES}

    unknown = {
        (script.name, item.code)
        for script in ALL
        for item in (*script.expected, *script.allowed)
        if item.code not in known
    }

    assert unknown == set()


def test_there_are_clean_scripts() -> None:
    assert sum(script.is_clean for script in SCRIPTS) >= LEAST_CLEAN


@pytest.mark.parametrize("script", ALL, ids=lambda script: script.name)
def test_script_says_what_it_does_and_not_what_is_wrong(script: Script) -> None:
    for file in script.files:
        source = file.read_text(encoding="utf-8")

        assert ast.get_docstring(ast.parse(source)), "no docstring"
        assert GIVES_AWAY.findall(source) == []


@pytest.mark.parametrize("script", [script for script in ALL if script.twin], ids=lambda script: script.name)
def test_twin_differs_and_not_by_much(script: Script) -> None:
    assert script.twin is not None
    ours, theirs = (
        [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        for files in (script.files, Script(script.twin, "").files)
    )

    same = sum((Counter(ours) & Counter(theirs)).values())

    assert ours != theirs
    assert same >= 0.6 * max(len(ours), len(theirs)), "more than the problem is different"


GOOD_LABEL = """
rule = "MP101"

[[script]]
file = "a_leaky.py"
twin = "a_clean.py"
source = "https://example.org/report"
note = "it keeps the graph"

[[script.finding]]
code = "MP101"
at = ["total += loss"]
remedy = ["item"]
"""


@pytest.mark.parametrize(
    ("text", "replacement", "message"),
    [
        ('rule = "MP101"', "", "rule must be a code"),
        ('note = "it keeps the graph"', "", "missing keys ['note']"),
        ('source = "https://example.org/report"', "", "source must be"),
        ('twin = "a_clean.py"', "", "without a label: ['a_clean.py']"),
        ('file = "a_leaky.py"', 'file = "b.py"', "no such file"),
        ('at = ["total += loss"]', 'at = ["loss"]', "occurs in 2 lines"),
        ('at = ["total += loss"]', 'at = ["nowhere"]', "occurs in 0 lines"),
        ('remedy = ["item"]', 'remedy = ["pray"]', "unknown remedies"),
        ('remedy = ["item"]', 'remedies = ["item"]', "unknown keys ['remedies']"),
        ("rule", "rule =", "labels.toml"),
    ],
)
def test_malformed_labels_are_refused(text: str, replacement: str, message: str, tmp_path) -> None:
    folder = tmp_path / "topic"
    folder.mkdir()
    (folder / "a_leaky.py").write_text("total += loss\nprint(loss)\n", encoding="utf-8")
    (folder / "a_clean.py").write_text("total += loss.item()\n", encoding="utf-8")
    (folder / "labels.toml").write_text(GOOD_LABEL, encoding="utf-8")
    assert len(load_folder(folder)) == 2

    (folder / "labels.toml").write_text(GOOD_LABEL.replace(text, replacement, 1), encoding="utf-8")
    with pytest.raises(LabelError, match=re.escape(message)):
        load_folder(folder)


# ---- the scorer --------------------------------------------------------------------------------

METER = next(script for script in load("retention_running_loss/meter_leaky.py"))
METER_TWIN = next(script for script in load("retention_running_loss/meter_clean.py"))
RIGHT = METER.expected[0].lines[0]


@pytest.mark.parametrize(
    ("reported", "shares", "problem"),
    [
        ([Reported("MP101", RIGHT, "item")], (1.0, 1.0, 1.0, 1.0), None),
        ([], (None, 0.0, None, None), "missed: MP101"),
        ([Reported("MP101", RIGHT + 1, "item")], (1.0, 1.0, 0.0, 1.0), "wrong line"),
        ([Reported("MP101", None, "item")], (1.0, 1.0, 0.0, 1.0), "wrong line"),
        ([Reported("MP101", RIGHT, "gc")], (1.0, 1.0, 1.0, 0.0), "wrong remedy"),
        ([Reported("MP101", RIGHT, None)], (1.0, 1.0, 1.0, 0.0), "wrong remedy"),
        ([Reported("MP102", RIGHT, "item")], (0.0, 0.0, None, None), "false alarm: MP102"),
        ([Reported("MP301", 1, "item", harmless=True)], (None, 0.0, None, None), "missed"),
        ([Reported("MP301", 1, "item")], (0.0, 0.0, None, None), "false alarm: MP301"),
        (
            [Reported("MP101", RIGHT, "item"), Reported("MP101", RIGHT + 1, "item")],
            (0.5, 1.0, 1.0, 1.0),
            "false alarm beside a true finding",
        ),
        (
            [Reported("MP101", RIGHT + 2, "item"), Reported("MP101", RIGHT + 1, "item")],
            (0.5, 1.0, 0.0, 1.0),
            "wrong line",
        ),
    ],
)
def test_scoring(reported: list[Reported], shares: tuple[float | None, ...], problem: str | None) -> None:
    whole = score([METER], [Result(tuple(reported))])

    assert tuple(whole.total.shares.values()) == shares
    assert any(problem in sentence for sentence in whole.problems) if problem else whole.problems == []
    assert whole.failures == []


def test_finding_in_a_clean_script_is_a_false_alarm() -> None:
    whole = score([METER_TWIN, METER_TWIN], [Result((Reported("MP101", 1),)), Result()])

    assert whole.total.shares["precision"] == 0.0
    assert (whole.clean, whole.silent) == (2, 1)
    assert whole.below() == ["precision is 0.000, below 0.97"]


def test_what_cannot_be_scored_is_a_failure() -> None:
    whole = score([METER, METER], [Result(failure="died of SIGSEGV"), Result(exit_status=3)])

    assert len(whole.failures) == 2
    assert "died of SIGSEGV" in whole.failures[0]
    assert "exit status 3, not 0" in whole.failures[1]


def test_crash_and_timeout_are_failures_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tests.corpus.runner.TIMEOUT_S", 3)
    scripts = []
    for name, text in (("dies", "import os\nos.abort()\n"), ("hangs", "import time\ntime.sleep(60)\n")):
        path = tmp_path / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        scripts.append(Script(path, ""))

    with Runner(jobs=1) as runner:
        dies, hangs = runner.map(runner.analyze, scripts)

    assert "SIGABRT" in dies.failure
    assert "took longer than 3 s" in hangs.failure


# ---- the diagnosis -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


@pytest.fixture(scope="module")
def analyzed(runner: Runner) -> tuple[Run, ...]:
    return tuple(runner.map(runner.analyze, ON_CPU))


@pytest.mark.slow
def test_analyze_is_precise_and_complete(analyzed: tuple[Run, ...]) -> None:
    whole = score(ON_CPU, map(as_result, ON_CPU, analyzed))

    said = "\n".join([table(whole), *whole.problems])
    assert whole.failures == [], said
    assert whole.below() == [], said


@pytest.mark.slow
def test_analyze_keeps_its_score_on_the_held_out_set(runner: Runner) -> None:
    """Without twins and what takes long, which `python -m tests.corpus.score --held-out` runs as well."""
    on_cpu = (script for script in NOT_TUNED_FOR if script.runs_on("cpu") and script.name not in LONG)
    scripts = tuple(script for script in on_cpu if script.expected or script.is_clean)

    whole = score(scripts, map(as_result, scripts, runner.map(runner.analyze, scripts)))

    said = "\n".join([table(whole), *whole.problems])
    assert whole.failures == [], said
    assert whole.below(HELD_OUT_THRESHOLDS) == [], said


@pytest.mark.slow
def test_scripts_print_the_same_without_memprof(runner: Runner, analyzed: tuple[Run, ...]) -> None:
    plain = tuple(runner.map(runner.plain, ON_CPU))

    different = [
        f"{script.name}: {run.failure or ours.failure or 'prints something else under memprof'}"
        for script, run, ours in zip(ON_CPU, plain, analyzed, strict=True)
        if (run.failure, run.stdout, run.exit_status) != (ours.failure, ours.stdout, ours.exit_status)
    ]
    assert different == []
    assert [script.name for script, run in zip(ON_CPU, plain, strict=True) if not run.stdout] == []


def test_flag_of_another_tool_counts_at_the_labelled_statement() -> None:
    at_label = tuple(as_reported(METER, [("TG001", RIGHT, "graph"), ("TG001", RIGHT + 30, "elsewhere")]))
    in_twin = tuple(as_reported(METER_TWIN, [("TG001", RIGHT, "graph")]))

    whole = score([METER, METER_TWIN], [Result(at_label), Result(in_twin)], static=True, remedies=False)

    assert whole.total.shares == {"precision": 0.5, "recall": 1.0, "lines": 1.0, "remedies": None}

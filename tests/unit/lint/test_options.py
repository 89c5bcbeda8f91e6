"""Choosing what is reported: options, `pyproject.toml`, `# noqa`."""

from __future__ import annotations

from pathlib import Path

import pytest

from memprof._errors import UsageError
from memprof.lint import LINT_RULES, Confidence, LintOptions, lint_paths, lint_rule, read_options
from memprof.lint.checks import CHECKS
from memprof.lint.options import codes_in, find_configuration
from memprof.lint.suppression import is_suppressed, suppressed
from tests.unit.lint.programs import program

SOURCE = program(
    """
    total, kept = 0.0, []
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.zero_grad(set_to_none=False)
        total += loss
        kept.append(loss)
    """
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def codes(path: Path, options: LintOptions | None = None) -> list[str]:
    return [item.code for item in lint_paths([path], options)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (LintOptions(), ["MP207", "MP101", "MP102"]),
        (LintOptions(select=("MP101",)), ["MP101"]),
        (LintOptions(select=("MP1",)), ["MP101", "MP102"]),
        (LintOptions(ignore=("MP1",)), ["MP207"]),
        (LintOptions(select=("MP1",), ignore=("MP102",)), ["MP101"]),
        (LintOptions(per_file_ignores={"train.py": ("MP101", "MP2")}), ["MP102"]),
        (LintOptions(per_file_ignores={"other.py": ("MP101",)}), ["MP207", "MP101", "MP102"]),
        (LintOptions(per_file_ignores={"*.py": ("MP",)}), []),
        (LintOptions(confidence=Confidence.HIGH), ["MP207", "MP101", "MP102"]),
    ],
)
def test_what_is_reported(script: Path, options: LintOptions, expected: list[str]) -> None:
    assert codes(script, options) == expected


@pytest.mark.parametrize("code", ["MP999", "E501", "", "mp101"])
def test_a_code_that_is_none(code: str) -> None:
    for options in ({"select": (code,)}, {"ignore": (code,)}, {"per_file_ignores": {"a.py": (code,)}}):
        with pytest.raises(UsageError, match="lint has no code"):
            LintOptions(**options)


def test_codes_on_a_command_line() -> None:
    assert codes_in(["MP101,mp102", " MP2 "]) == ("MP101", "MP102", "MP2")


# ---- pyproject.toml --------------------------------------------------------------------------


def configured(folder: Path, table: str) -> LintOptions:
    file = folder / "pyproject.toml"
    file.write_text(f"[tool.memprof.lint]\n{table}\n", encoding="utf-8")
    return read_options(file)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", ["MP207", "MP101", "MP102"]),
        ('select = ["MP101"]', ["MP101"]),
        ('ignore = ["MP101"]', ["MP207", "MP102"]),
        ('exclude = ["train.py"]', []),
        ('per-file-ignores = { "train.py" = ["MP2"] }', ["MP101", "MP102"]),
        ('confidence = "high"', ["MP207", "MP101", "MP102"]),
    ],
)
def test_every_key_of_the_configuration(script: Path, table: str, expected: list[str]) -> None:
    options = configured(script.parent, table)

    assert [item.code for item in lint_paths([script.parent], options)] == expected


def test_patterns_are_relative_to_the_configuration(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = script.parent / "scripts"
    folder.mkdir()
    script.rename(folder / "train.py")
    options = configured(script.parent, 'per-file-ignores = { "scripts/train.py" = ["MP1"] }')
    monkeypatch.chdir(folder)

    assert [item.code for item in lint_paths(["."], options)] == ["MP207"]


@pytest.mark.parametrize(
    "table",
    [
        "chosen = []",
        'select = "MP101"',
        "select = [1]",
        'select = ["MP999"]',
        'per-file-ignores = ["a"]',
        'per-file-ignores = { "a.py" = "MP101" }',
        'confidence = "sure"',
        'force-exclude = "yes"',
        "select = [",
    ],
)
def test_a_configuration_that_means_nothing_names_its_file(tmp_path: Path, table: str) -> None:
    with pytest.raises(UsageError, match=r"pyproject\.toml"):
        configured(tmp_path, table)


def test_a_project_without_the_table_has_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text("[project]\nname = 'x'\n", encoding="utf-8")

    assert read_options(file) == LintOptions(root=tmp_path.resolve())


def test_the_nearest_configuration_is_found(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")

    assert find_configuration(tmp_path / "a" / "b") == tmp_path.resolve() / "pyproject.toml"


# ---- noqa ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# noqa", ["MP207", "MP102"]),
        ("# noqa: MP101", ["MP207", "MP102"]),
        ("# NOQA:MP101", ["MP207", "MP102"]),
        ("# noqa: E501, MP101", ["MP207", "MP102"]),
        ("# noqa: E501 MP101", ["MP207", "MP102"]),
        ("# the sum is small  # noqa: MP101", ["MP207", "MP102"]),
        ("# noqa: E501", ["MP207", "MP101", "MP102"]),
        ("# noqa: MP102", ["MP207", "MP101", "MP102"]),
        ("# nothing", ["MP207", "MP101", "MP102"]),
    ],
)
def test_comments_suppress(script: Path, comment: str, expected: list[str]) -> None:
    script.write_text(SOURCE.replace("total += loss", f"total += loss  {comment}"), encoding="utf-8")

    assert codes(script) == expected


def test_a_comment_on_the_last_line_of_a_statement(script: Path) -> None:
    script.write_text(
        SOURCE.replace("total += loss", "total += (\n        loss\n    )  # noqa: MP101"), encoding="utf-8"
    )

    assert codes(script) == ["MP207", "MP102"]


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# memprof: noqa", []),
        ("# memprof: noqa: MP101, MP2", ["MP207", "MP102"]),
        ("#memprof:noqa:MP102", ["MP207", "MP101"]),
        ("# memprof: noqa: MP101\n# memprof: noqa: MP102", ["MP207"]),
        ("x = 1  # memprof: noqa", ["MP207", "MP101", "MP102"]),
        ('"""\n# memprof: noqa\n"""', ["MP207", "MP101", "MP102"]),
        ("# ruff: noqa", ["MP207", "MP101", "MP102"]),
    ],
)
def test_a_comment_for_the_whole_file(script: Path, comment: str, expected: list[str]) -> None:
    script.write_text(f"{comment}\n{SOURCE}", encoding="utf-8")

    assert codes(script) == expected


def test_noqa_within_a_string_is_no_comment() -> None:
    lines = suppressed("x = '# noqa'\ny = 1  # noqa\n")

    assert not is_suppressed("MP101", lines, 1, 1)
    assert is_suppressed("MP101", lines, 2, 2)


# ---- codes -----------------------------------------------------------------------------------


def test_codes_are_told_once_and_in_order() -> None:
    found = [rule.code for rule in LINT_RULES]

    assert found == sorted(set(found))
    assert len({rule.name for rule in LINT_RULES}) == len(found)
    assert all(rule.summary.endswith(".") and rule.help.endswith(".") for rule in LINT_RULES)
    assert lint_rule("MP101").name == "graph-grows-across-iterations"


def test_names_are_those_of_the_rules_for_recorded_runs() -> None:
    from memprof.detect import RULES

    names = {rule.code: rule.__name__ for rule in RULES}

    assert {rule.code: rule.title for rule in LINT_RULES if rule.code in names} == {
        rule.code: names[rule.code] for rule in LINT_RULES if rule.code in names
    }


def test_every_code_has_a_check_that_gives_it_and_a_known_remedy() -> None:
    import inspect
    import re

    from memprof.detect.finding import REMEDY_SLUGS

    source = "".join(inspect.getsource(inspect.getmodule(check)) for check in CHECKS)
    given = set(re.findall(r'"(MP[0-9]{3})"', source))

    assert given == {rule.code for rule in LINT_RULES}
    assert {"item", "detach", "no_grad"} <= REMEDY_SLUGS


def test_every_code_is_in_the_guide() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "how-to" / "lint.md").read_text(encoding="utf-8")

    assert [rule.code for rule in LINT_RULES if f"| {rule.code} | {rule.summary} |" not in guide] == []

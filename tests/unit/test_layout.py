"""What import-linter cannot express about the layout of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import memprof

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "memprof"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def _imports_of_root(tree: ast.AST) -> list[int]:
    """Lines that import the public root: `import memprof`, `from memprof import x`."""
    lines = []
    for node in ast.walk(tree):
        by_name = isinstance(node, ast.Import) and any(alias.name == "memprof" for alias in node.names)
        from_root = isinstance(node, ast.ImportFrom) and node.module == "memprof" and node.level == 0
        if by_name or from_root:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import memprof", [1]),
        ("from memprof import Profiler", [1]),
        ("def f():\n    from memprof import units", [2]),
        ("import os, memprof as m", [1]),
        ("from memprof.units import format_bytes", []),
        ("import memprof.units", []),
        ("text = 'import memprof'", []),
    ],
)
def test_imports_of_the_root_are_recognised(source: str, lines: list[int]) -> None:
    assert _imports_of_root(ast.parse(source)) == lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_inside_imports_the_public_root(path: Path) -> None:
    lines = _imports_of_root(ast.parse(path.read_text(encoding="utf-8")))

    where = f"{path.relative_to(ROOT)}:{lines[:1]}"
    assert not lines, f"{where} imports the public root; import from where the name is defined"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_named_for_what_it_holds(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}


def test_the_version_is_written_once() -> None:
    assignments = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(r"^__version__\b[^=\n]*=", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]

    assert assignments == ["memprof/_version.py"]


def test_files_named_in_the_architecture_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    there = [f"/{path.relative_to(PACKAGE).as_posix()}" for path in SOURCES]

    assert [name for name in sorted(named) if not any(path.endswith(f"/{name}") for path in there)] == []


def test_the_architecture_says_what_each_package_owns() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text, re.MULTILINE))
    leaves = set(re.findall(r"`(\w+)\.py`", text.partition("are leaves that all may use")[0].rpartition("\n\n")[2]))
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}

    assert sorted(rows | leaves) == sorted(packages | modules)


def test_the_first_line_of_a_file_says_what_it_holds() -> None:
    # The list in docs/architecture.md is made of these lines.
    summaries = {
        path.relative_to(ROOT).as_posix(): ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for path in SOURCES
    }

    assert [path for path, text in summaries.items() if not re.fullmatch(r".{10,}\.", text.partition("\n")[0])] == []


def test_changelog_fragments_have_a_kind_that_is_published() -> None:
    fragment = re.compile(r"[a-z0-9+-]+\.(added|changed|fixed|removed)\.md")
    names = {path.name for path in (ROOT / "changelog.d").glob("*.md")} - {"README.md"}

    assert [name for name in sorted(names) if not fragment.fullmatch(name)] == []


def test_every_public_name_is_in_the_api_reference() -> None:
    reference = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto(?:class|function|exception):: (\w+)$", reference, re.MULTILINE)
    documented += re.findall(r"^\.\. automodule:: memprof\.(\w+)$", reference, re.MULTILINE)

    assert sorted(documented) == sorted(set(memprof.__all__) - {"__version__"})

"""What is checked and reported, and where `pyproject.toml` says so."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

from memprof._errors import UsageError
from memprof.lint.codes import LINT_RULES
from memprof.lint.finding import Confidence

_KEYS = ("select", "ignore", "exclude", "force-exclude", "per-file-ignores", "confidence")


@dataclass(frozen=True, slots=True)
class LintOptions:
    """What is checked and what is reported.

    Attributes:
        select: Codes, or how they begin, that are reported; empty: all.
        ignore: Codes, or how they begin, that are not; wins over `select`.
        exclude: Patterns of names, or of paths below `root`, that are not checked.
        confidence: The least confidence that is reported.
        per_file_ignores: Pattern -> codes that are not reported in such files.
        force_exclude: Whether `exclude` holds for files that are named, too.
        root: What patterns of paths are relative to; None: the current folder.

    Raises:
        UsageError: A code is none that the check gives.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    confidence: Confidence = Confidence.MEDIUM
    per_file_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    force_exclude: bool = False
    root: Path | None = None

    def __post_init__(self) -> None:
        for code in (*self.select, *self.ignore, *(code for codes in self.per_file_ignores.values() for code in codes)):
            if not code or not any(rule.code.startswith(code) for rule in LINT_RULES):
                known = ", ".join(rule.code for rule in LINT_RULES)
                raise UsageError(f"lint has no code {code!r}; it gives {known}")

    def reports(self, code: str) -> bool:
        """Whether a code is reported in files that are not treated apart."""
        chosen = not self.select or code.startswith(self.select)
        return chosen and not (self.ignore and code.startswith(self.ignore))

    @property
    def folder(self) -> Path:
        """What patterns of paths are relative to."""
        return (self.root or Path.cwd()).resolve()


def find_configuration(start: Path) -> Path | None:
    """The nearest `pyproject.toml` at or above a folder."""
    folder = start.resolve()
    for candidate in (folder, *folder.parents):
        if (candidate / "pyproject.toml").is_file():
            return candidate / "pyproject.toml"
    return None


def read_options(file: Path) -> LintOptions:
    """Read `[tool.memprof.lint]`.

    Args:
        file: A `pyproject.toml`; without the table the defaults hold.

    Raises:
        UsageError: The file cannot be read, or the table has a key or value that means nothing.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        tomllib = import_module("tomli")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {file}: {error}") from error
    table = data.get("tool", {}).get("memprof", {}).get("lint", {})
    if not isinstance(table, dict):
        raise UsageError(f"{file}: [tool.memprof.lint] must be a table")
    for key in table:
        if key not in _KEYS:
            raise UsageError(f"{file}: [tool.memprof.lint] has no key {key!r}; known: {', '.join(_KEYS)}")
    ignores = table.get("per-file-ignores", {})
    if not isinstance(ignores, dict):
        raise UsageError(f"{file}: per-file-ignores of [tool.memprof.lint] must be a table of lists of codes")
    options = LintOptions(root=file.parent.resolve())
    try:
        return replace(
            options,
            select=_texts(file, table, "select"),
            ignore=_texts(file, table, "ignore"),
            exclude=_texts(file, table, "exclude"),
            per_file_ignores={pattern: _texts(file, ignores, pattern) for pattern in ignores},
            confidence=_confidence(file, table.get("confidence", options.confidence.value)),
            force_exclude=_flag(file, table, "force-exclude"),
        )
    except UsageError as error:
        raise error if str(file) in str(error) else UsageError(f"{file}: {error}") from None


def _texts(file: Path, table: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"{file}: {key!r} of [tool.memprof.lint] must be a list of strings")
    return tuple(value)


def _flag(file: Path, table: Mapping[str, object], key: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise UsageError(f"{file}: {key!r} of [tool.memprof.lint] must be true or false")
    return value


def _confidence(file: Path, value: object) -> Confidence:
    levels = [level.value for level in Confidence]
    if value not in levels:
        raise UsageError(f"{file}: confidence of [tool.memprof.lint] must be one of {', '.join(levels)}")
    return Confidence(value)


def codes_in(texts: Iterable[str]) -> tuple[str, ...]:
    """Codes given on a command line: repeated, or with commas between them."""
    return tuple(code.strip().upper() for text in texts for code in text.split(",") if code.strip())

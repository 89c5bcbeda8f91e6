"""What is true of each script of the corpus: `labels.toml` of each folder, loaded and checked."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memprof.detect.finding import REMEDY_SLUGS

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

CORPUS = Path(__file__).parent
HELD_OUT = CORPUS.with_name("corpus_held_out")
"""Scripts that were labelled before any tool had seen them."""
CLEAN_FOLDER = "clean"
LABELS = "labels.toml"


class LabelError(ValueError):
    """A `labels.toml` that cannot be believed; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A finding that must be reported.

    Attributes:
        code: Code of the rule.
        lines: Line numbers of which any is right. Empty: any line.
        remedies: Slugs of which the finding's first remedy must be one. Empty: not checked.
        lint: A static check could see it from the source alone.
        file: Name of the file beside the script that the lines are in; '' for the script itself.
    """

    code: str
    lines: tuple[int, ...]
    remedies: frozenset[str]
    lint: bool = True
    file: str = ""

    def is_met_by(self, line: int | None, file: str) -> bool:
        """Whether a finding at this place is at a right one."""
        return not self.lines or (line in self.lines and file == self.file)


@dataclass(frozen=True, slots=True)
class Allowed:
    """A finding that is true as well and may be reported; `lines` as in `Expected`."""

    code: str
    lines: tuple[int, ...]

    def is_met_by(self, line: int | None, file: str) -> bool:
        """Whether a finding at this place is meant."""
        return not self.lines or (line in self.lines and not file)


@dataclass(frozen=True, slots=True)
class Script:
    """One script and the truth about it.

    Attributes:
        path: The script.
        rule: Code of the rule its folder is about, or ''.
        twin: The same script with the problem mended; None for a clean one.
        source: Address of the report the script is based on, or ''.
        note: What is going on in it.
        cuda: The findings must hold on a CUDA device without processors, too.
        cpu: The findings are there without CUDA.
        args: Its command line.
        exit_status: How it ends.
        expected: Findings that must be reported. Empty: nothing is wrong.
        allowed: Findings that may be reported.
    """

    path: Path
    rule: str
    twin: Path | None = None
    source: str = ""
    note: str = ""
    cuda: bool = True
    cpu: bool = True
    args: tuple[str, ...] = ()
    exit_status: int = 0
    expected: tuple[Expected, ...] = ()
    allowed: tuple[Allowed, ...] = ()

    @property
    def name(self) -> str:
        """Path below the corpus: `clean/kv_cache.py`."""
        root = HELD_OUT if HELD_OUT in self.path.parents else CORPUS
        return self.path.relative_to(root).as_posix()

    @property
    def is_clean(self) -> bool:
        """Whether the script is there to tempt: it has no problem, nor is it the twin of one that has."""
        return self.path.parent.name == CLEAN_FOLDER

    @property
    def files(self) -> tuple[Path, ...]:
        """The script, and the modules beside it where it has a folder of its own."""
        folder = self.path.parent
        alone = (folder / LABELS).exists()
        return (self.path,) if alone else (self.path, *sorted(set(folder.glob("*.py")) - {self.path}))

    def runs_on(self, device: str) -> bool:
        """Whether the labels are about a device, `cpu` or `cuda`."""
        return self.cuda if device == "cuda" else self.cpu

    def text(self, line: int, file: str = "") -> str:
        """A line of the script, or of a file beside it, without indentation."""
        return source_lines(self.path.with_name(file) if file else self.path)[line - 1].strip()


def load(only: str = "", root: Path = CORPUS) -> tuple[Script, ...]:
    """Load the labels of a corpus.

    Args:
        only: Keep scripts whose name below the corpus contains this, or whose rule it is.
        root: The corpus.

    Raises:
        LabelError: A label is malformed, or a script has none.
    """
    folders = sorted(path.parent for path in root.glob(f"*/{LABELS}"))
    scripts = [script for folder in folders for script in load_folder(folder)]
    return tuple(script for script in scripts if only in script.name or only in _codes(script))


def _codes(script: Script) -> set[str]:
    return {script.rule, *(item.code for item in script.expected)}


def load_folder(folder: Path) -> list[Script]:
    """Load the labels of one folder; a twin without an entry of its own is a clean script."""
    file = folder / LABELS
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabelError(f"{file}: {error}") from error
    _check_keys(file, data, {"rule", "script"}, "the file")
    rule = data.get("rule")
    if not isinstance(rule, str) or (not rule and folder.name != CLEAN_FOLDER and folder.parent != HELD_OUT):
        raise LabelError(f'{file}: rule must be a code such as "MP101" ("" in {CLEAN_FOLDER}/ only)')
    entries = {script.path: script for script in (_script(file, rule, entry) for entry in data.get("script", ()))}
    if len(entries) != len(data.get("script", ())):
        raise LabelError(f"{file}: two entries name one file")
    for script in list(entries.values()):
        twin = script.twin
        if twin is not None and twin not in entries:
            entries[twin] = Script(
                twin,
                rule,
                source=script.source,
                note=f"the twin of {script.path.name}",
                cuda=script.cuda,
                cpu=script.cpu,
                args=script.args,
            )
    found, named = set(folder.rglob("*.py")), {path for script in entries.values() for path in script.files}
    if found != named:
        missing, unlabelled = (sorted(path.name for path in paths) for paths in (named - found, found - named))
        raise LabelError(f"{file}: no such file: {missing}; without a label: {unlabelled}")
    return [_with_checked_twin(file, script, entries) for _, script in sorted(entries.items())]


def _with_checked_twin(file: Path, script: Script, entries: Mapping[Path, Script]) -> Script:
    if script.expected and script.twin is None:
        raise LabelError(f"{file}: {script.path.name} has findings and no twin")
    if script.twin is not None:
        codes = {expected.code for expected in entries[script.twin].expected}
        if both := codes & {expected.code for expected in script.expected}:
            raise LabelError(f"{file}: {script.twin.name} is to have {sorted(both)}, as {script.path.name} has")
    return script


def _script(file: Path, rule: str, entry: Mapping[str, Any]) -> Script:
    what = f"script {entry.get('file')!r}"
    _check_keys(
        file,
        entry,
        set("file twin source note cuda cpu args exit_status finding allowed".split()),
        what,
        ("file", "note"),
    )
    path = file.parent / entry["file"]
    if not path.is_file():
        raise LabelError(f"{file}: {what}: no such file")
    expected = tuple(_expected(file, path, item) for item in entry.get("finding", ()))
    if expected and not str(entry.get("source", "")).startswith("https://"):
        raise LabelError(f"{file}: {what}: source must be the https:// address of the report it is based on")
    return Script(
        path=path,
        rule=rule,
        twin=file.parent / entry["twin"] if "twin" in entry else None,
        source=entry.get("source", ""),
        note=entry["note"],
        cuda=entry.get("cuda", True),
        cpu=entry.get("cpu", True),
        args=tuple(map(str, entry.get("args", ()))),
        exit_status=entry.get("exit_status", 0),
        expected=expected,
        allowed=tuple(_allowed(file, path, item) for item in entry.get("allowed", ())),
    )


def _expected(file: Path, path: Path, item: Mapping[str, Any]) -> Expected:
    known = {"code", "at", "remedy", "lint", "file"}
    _check_keys(file, item, known, f"a finding of {path.name}", ("code", "at", "remedy"))
    if unknown := set(item["remedy"]) - REMEDY_SLUGS:
        raise LabelError(f"{file}: {path.name}: unknown remedies {sorted(unknown)}")
    where = item.get("file", "")
    lines = _lines(file, path.with_name(where) if where else path, item["at"])
    return Expected(item["code"], lines, frozenset(item["remedy"]), item.get("lint", True), where)


def _allowed(file: Path, path: Path, item: Mapping[str, Any]) -> Allowed:
    _check_keys(file, item, {"code", "at"}, f"an allowed finding of {path.name}", ("code",))
    return Allowed(item["code"], _lines(file, path, item.get("at", ())))


def _lines(file: Path, path: Path, texts: list[str]) -> tuple[int, ...]:
    return tuple(_line_number(file, path, text) for text in texts)


def _line_number(file: Path, path: Path, text: str) -> int:
    found = [number for number, line in enumerate(source_lines(path), start=1) if text in line]
    if len(found) != 1:
        raise LabelError(f"{file}: {text!r} occurs in {len(found)} lines of {path.name}: {found}")
    return found[0]


def _check_keys(file: Path, table: Mapping[str, Any], known: set[str], what: str, needed: tuple[str, ...] = ()) -> None:
    unknown, missing = set(table) - known, set(needed) - set(table)
    if unknown or missing:
        raise LabelError(f"{file}: {what}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}")


@functools.cache
def source_lines(path: Path) -> tuple[str, ...]:
    """The lines of a script."""
    return tuple(path.read_text(encoding="utf-8").splitlines())

"""Places a finding on the statement a user would change.

What was seen at run time says which variable holds the tensors and which line made them; the source
then tells which statement stores them. The source alone never raises a finding.
"""

from __future__ import annotations

import ast
import linecache
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from memprof.record.census import Holder
from memprof.record.events import Location

_GROWS = 3
"""How surely a statement stores that adds to its target: see `_stores`."""

_MOST_FILES = 64
"""Files of one program that are looked through."""

STORING_METHODS = frozenset(
    "append appendleft add extend extendleft insert put put_nowait update setdefault push".split()
)


@lru_cache(maxsize=64)
def syntax_tree(file: str) -> ast.Module | None:
    """The syntax tree of a file; None where it cannot be read or is no Python."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return None


def with_imports(files: Sequence[str]) -> list[str]:
    """Files and the modules of the same program that they import: those that lie beside them.

    Args:
        files: Files of the user's code.

    Returns:
        The files, and after them what they import, at most `_MOST_FILES`.
    """
    found = list(files)
    for file in found:  # which gets longer
        for name, level in _imports(file):
            folder = Path(file).parents[max(level - 1, 0)] if level <= len(Path(file).parents) else Path(file).parent
            path = str(folder.joinpath(*name.split("."))) + ".py"
            if len(found) < _MOST_FILES and path not in found and os.path.isfile(path):
                found.append(path)
    return found


@lru_cache(maxsize=256)
def _imports(file: str) -> tuple[tuple[str, int], ...]:
    """Names of the modules that a file imports, each with the dots before it."""
    tree = syntax_tree(file)
    names: dict[tuple[str, int], None] = {}
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            names.update(((alias.name, 0), None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = [node.module] if node.module else [alias.name for alias in node.names]
            names.update(((part, node.level), None) for part in parts)
    return tuple(names)


def line_text(location: Location) -> str:
    """The source line without indentation, or '' where the file cannot be read."""
    return linecache.getline(location.file, location.line).strip()


def storing_statement(holder: Holder, made: Location | None, files: Sequence[str]) -> Location | None:
    """Find the statement that puts tensors into a holder.

    Args:
        holder: Who keeps them; its name is what the statement writes to.
        made: The line that made the tensors.
        files: Files of the user's code, searched in this order after the holder's and the maker's.

    Returns:
        The best statement, or None where no statement writes to that name.
    """
    return _storing_statement(holder, made, tuple(files))


@lru_cache(maxsize=256)
def _storing_statement(holder: Holder, made: Location | None, files: tuple[str, ...]) -> Location | None:
    name = _terminal(holder.name)
    if not name:
        return None
    wanted = names_assigned_at(made)
    functions = {made.function.rpartition(".")[2]} if made is not None else set()
    if holder.kind == "local" and holder.owner:
        functions = {holder.owner.rpartition(".")[2]}
    keys = set(re.findall(r"\['([^']*)'\]", holder.name))
    best: tuple[tuple[int, ...], Location] | None = None
    candidates = [location.file for location in (holder.location, made) if location is not None]
    for order, file in enumerate(dict.fromkeys([*candidates, *files])):
        tree = syntax_tree(file)
        if tree is None:
            continue
        for node, function in _statements(tree):
            strength = _stores(node, name, attribute=holder.kind == "attribute")
            if not strength:
                continue
            mentions = bool(wanted & _names_in(node))
            keyed = bool(keys & _strings_in(node))
            distance = abs(node.lineno - made.line) if made is not None and made.file == file else 10_000
            after = made is None or made.file != file or node.lineno >= made.line
            same_function = function.rpartition(".")[2] in functions
            rank = (-strength, -int(keyed), -int(mentions), -int(same_function), order, -int(after), distance)
            if best is None or rank < best[0]:
                best = (rank, Location(file, node.lineno, function or "<module>"))
    return None if best is None else best[1]


def adds_to(stored: Location | None, holder: Holder) -> bool:
    """Whether the statement at a line adds to what a holder has, as `append` does, instead of binding it anew."""
    tree = syntax_tree(stored.file) if stored is not None else None
    if tree is None or stored is None:
        return False
    name, attribute = _terminal(holder.name), holder.kind == "attribute"
    return any(
        node.lineno == stored.line and _stores(node, name, attribute=attribute) == _GROWS
        for node, _ in _statements(tree)
    )


def _terminal(name: str) -> str:
    """`history['loss']` -> `history`; `self.total` -> `total`."""
    return re.split(r"\[", name, maxsplit=1)[0].rpartition(".")[2]


def _statements(tree: ast.Module) -> Iterable[tuple[ast.stmt, str]]:
    """Every simple statement with the qualified name of its function."""

    def visit(node: ast.AST, scope: str) -> Iterable[tuple[ast.stmt, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from visit(child, f"{scope}.{child.name}" if scope else child.name)
            else:
                if isinstance(child, (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign)):
                    yield child, scope
                yield from visit(child, scope)

    return visit(tree, "")


def _stores(node: ast.stmt, name: str, *, attribute: bool) -> int:
    """How surely a statement stores into `name`: 3 grows it, 2 sets an item, 1 rebinds it, 0 not at all."""
    for call in (item for item in ast.walk(node) if isinstance(item, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr in STORING_METHODS:
            if _base_is(call.func.value, name, attribute) and call.args and not _puts_nothing(call):
                return 3
    if isinstance(node, ast.AugAssign) and _base_is(node.target, name, attribute):
        return 3
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
            for part in parts:
                if isinstance(part, ast.Subscript) and _base_is(part, name, attribute):
                    return 2
                if _base_is(part, name, attribute) and node.value is not None:
                    itself = any(_base_is(item, name, attribute) for item in ast.walk(node.value))
                    return 3 if itself else 1 if not isinstance(node.value, (ast.Constant, ast.List, ast.Dict)) else 0
    return 0


def _puts_nothing(call: ast.Call) -> bool:
    """Whether a call makes room for what is stored later: `panels.setdefault(tag, [])`."""
    values = [item for item in call.args[1:] if not isinstance(item, ast.Constant)]
    empty = (isinstance(item, (ast.List, ast.Tuple, ast.Dict)) and not ast.unparse(item)[1:-1] for item in values)
    return isinstance(call.func, ast.Attribute) and call.func.attr == "setdefault" and all(empty)


def _base_is(node: ast.AST, name: str, attribute: bool) -> bool:
    """Whether an expression is `name`, `x.name` or one of them with subscripts."""
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # d.setdefault(k, []).append(x)
        return _base_is(node.func.value, name, attribute)
    if isinstance(node, ast.Attribute):
        return node.attr == name
    return isinstance(node, ast.Name) and node.id == name and not attribute


def _names_in(node: ast.AST) -> set[str]:
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


def _strings_in(node: ast.AST) -> set[str]:
    return {item.value for item in ast.walk(node) if isinstance(item, ast.Constant) and isinstance(item.value, str)}


def calls_of(files: Iterable[str], name: str) -> list[Location]:
    """Lines that call a function or method by its last name, in order of files and lines."""
    found = []
    for file in files:
        tree = syntax_tree(file)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called == name:
                    found.append(Location(file, node.lineno, ""))
    return sorted(found, key=lambda place: (place.file, place.line))


def attributes_assigned(files: Iterable[str], name: str) -> list[Location]:
    """Lines that assign an attribute (`self.pooler = ...`), in order of files and lines."""
    found = []
    for file in files:
        tree = syntax_tree(file)
        for node, function in _statements(tree) if tree is not None else ():
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Attribute) and target.attr == name for target in targets):
                found.append(Location(file, node.lineno, function or "<module>"))
    return sorted(found, key=lambda place: (place.file, place.line))


def names_assigned_at(made: Location | None) -> set[str]:
    """Names in what the statement at a line assigns: of `self.kept[index]` both `self` and `index`."""
    return set().union(*map(_names_in, _targets_at(made)))


def targets_assigned_at(made: Location | None) -> set[str]:
    """What the statement at a line assigns, as the source writes it: `batch`, `self.features`."""
    return set(target_texts(_targets_at(made)))


def assigned_targets(node: ast.AST | None) -> list[ast.expr]:
    """What a statement assigns, tuples taken apart; [] for any other node."""
    if isinstance(node, ast.Assign):
        waiting = list(node.targets)
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.AnnAssign) and node.value is not None):
        waiting = [node.target]
    else:
        return []
    found = []
    while waiting:
        target = waiting.pop(0)
        if isinstance(target, (ast.Tuple, ast.List)):
            waiting[:0] = target.elts
        else:
            found.append(target.value if isinstance(target, ast.Starred) else target)
    return found


def target_texts(targets: Iterable[ast.expr]) -> tuple[str, ...]:
    """Targets of an assignment as the source writes them, each once."""
    return tuple(dict.fromkeys(map(ast.unparse, targets)))


def _targets_at(made: Location | None) -> list[ast.expr]:
    tree = syntax_tree(made.file) if made is not None else None
    if tree is None or made is None:
        return []
    return [
        target
        for node, _ in _statements(tree)
        if node.lineno <= made.line <= (node.end_lineno or node.lineno)
        for target in assigned_targets(node)
    ]


def statement_at(location: Location | None) -> str:
    """Source of the innermost simple statement at a line, or ''."""
    tree = syntax_tree(location.file) if location is not None else None
    if tree is None or location is None:
        return ""
    source = "".join(linecache.getlines(location.file))
    found = ""
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt) or hasattr(node, "body"):
            continue
        if node.lineno <= location.line <= (node.end_lineno or node.lineno):
            found = ast.get_source_segment(source, node) or ""
    return found


def arguments_named_at(location: Location | None, function: str) -> set[str]:
    """Variables in the arguments of the calls of a function (`cat`) in the statement at a line."""
    tree = syntax_tree(location.file) if location is not None else None
    if tree is None or location is None:
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.lineno <= location.line <= (node.end_lineno or node.lineno):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == function:
                for argument in node.args:
                    names |= _names_in(argument)
                    names |= {item.attr for item in ast.walk(argument) if isinstance(item, ast.Attribute)}
    return names


def stored_under(file: str, name: str) -> list[str]:
    """Source of the statements of a file that store into a variable or attribute."""
    tree = syntax_tree(file)
    source = "".join(linecache.getlines(file))
    found = []
    for node, _ in _statements(tree) if tree is not None else ():
        if _stores(node, name, attribute=False):
            found.append(ast.get_source_segment(source, node) or "")
    return found

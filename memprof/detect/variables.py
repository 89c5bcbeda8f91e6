"""Which variable keeps a tensor, by the source: the one it is assigned to, while the function of that one runs.

The recording says that a tensor is alive and which line made it; this tells the name to delete. Where the source does
not show that one name alone keeps it, there is no answer.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from memprof.detect.source import STORING_METHODS, assigned_targets, syntax_tree, target_texts
from memprof.detect.surroundings import statement_at_line
from memprof.record.events import Location

_MOST_CALLS = 4
"""So many calls may lie between the function that keeps a tensor and the one that asks for the pass."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Binding:
    """An assignment whose variables keep what was made.

    Attributes:
        location: Its line.
        names: What it assigns, as the source writes it: `batch`, `self.spectrum`.
    """

    location: Location
    names: tuple[str, ...]


def binding_of(made: Location, running: Location | None, files: Sequence[str]) -> Binding | None:
    """The assignment that keeps what a line made while a pass runs.

    A tensor that a function returns is kept by what its caller assigns it to.

    Args:
        made: The line that made the tensor.
        running: The user's line that asked for the pass; None where it is not known.
        files: The user's files.

    Returns:
        The assignment, or None where the source does not show that it is the one.
    """
    statement, around = statement_at_line(made)
    if isinstance(statement, ast.Return):
        functions = [item for item in around if isinstance(item, _Function)]
        found = list(_results_of(functions[-1].name, files)) if functions else []
        if len(found) != 1:
            return None
        statement, around, made = found[0]
    targets = assigned_targets(statement)
    if not targets or not all(isinstance(item, (ast.Name, ast.Attribute)) for item in targets):
        return None
    function = next((item for item in reversed(around) if isinstance(item, _Function)), None)
    scope = syntax_tree(made.file) if function is None else function
    names = {item.id for item in targets if isinstance(item, ast.Name)}
    if names and (scope is None or _passed_on(scope, names)):
        return None
    if names and function is not None and not _waits(function, running, files):
        return None
    return Binding(made, target_texts(targets))


def _results_of(name: str, files: Iterable[str]) -> Iterator[tuple[ast.stmt, list[ast.AST], Location]]:
    """Assignments of what a function returned: each with what it lies in, and its line."""
    for file in files:
        tree = syntax_tree(file)
        for node in ast.walk(tree) if tree is not None else ():
            if assigned_targets(node) and name == _called(getattr(node, "value", None)):
                place = Location(file, node.lineno, "")  # type: ignore[attr-defined]  # a statement
                statement, around = statement_at_line(place)
                if statement is not None:
                    yield statement, around, Location(file, statement.lineno, _name(around))


def _name(around: Sequence[ast.AST]) -> str:
    """The qualified name of what a statement lies in."""
    parts = [item.name for item in around if isinstance(item, (ast.ClassDef))]
    return ".".join(parts) or "<module>"


def _called(node: ast.AST | None) -> str:
    """The last name of the function that an expression calls, or ''."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _waits(function: _Function, running: Location | None, files: Iterable[str]) -> bool:
    """Whether a function has not returned while another runs: it is that one, calls it, or is a generator."""
    if any(isinstance(item, (ast.Yield, ast.YieldFrom)) for item in _own(function)):
        return True
    if running is None:
        return False
    _, around = statement_at_line(running)
    inner = next((item for item in reversed(around) if isinstance(item, _Function)), None)
    if inner is None:
        return False  # the script's own lines ask for the pass: whatever function made the tensor has returned
    if inner.name == function.name:
        return True
    bodies: dict[str, list[_Function]] = {}
    for file in files:
        tree = syntax_tree(file)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, _Function):
                bodies.setdefault(node.name, []).append(node)
    reached, new = {function.name}, [function]
    for _ in range(_MOST_CALLS):
        called = {_called(item) for one in new for item in ast.walk(one)} - reached
        if inner.name in called:
            return True
        reached |= called
        new = [body for name in called for body in bodies.get(name, ())]
    return False


def _own(scope: _Function | ast.Module) -> Iterator[ast.AST]:
    """The nodes of a function or module without those of functions inside it."""
    waiting: list[ast.AST] = list(scope.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))


def _passed_on(scope: _Function | ast.Module, names: set[str]) -> bool:
    """Whether a function or module gives one of its variables, as it is, to somebody who may keep it."""
    for node in _own(scope):
        given: list[ast.expr | None] = []
        if isinstance(node, (ast.Return, ast.Yield)):
            given = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in STORING_METHODS:
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in assigned_targets(node)):
            given = [getattr(node, "value", None)]
        if any(names & _as_it_is(item) for item in given if item is not None):
            return True
    return False


def _as_it_is(node: ast.expr) -> set[str]:
    """Names that an expression is, or that it puts into a tuple, list or dictionary."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return set().union(*map(_as_it_is, node.elts))
    if isinstance(node, ast.Dict):
        return set().union(*map(_as_it_is, node.values))
    return _as_it_is(node.value) if isinstance(node, ast.Starred) else set()

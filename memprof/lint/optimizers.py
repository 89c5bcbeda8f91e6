"""Which modules each optimizer trains."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from memprof.lint.context import Context
from memprof.lint.names import path_of
from memprof.lint.program import FunctionInfo
from memprof.lint.values import Kind

_DEPTH = 3
"""How far back a variable's assignments are followed."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """An optimizer made somewhere.

    Attributes:
        name: Last name of what it is assigned to.
        modules: Paths of the modules whose parameters it is given.
        known: Every argument could be followed.
    """

    name: str
    modules: frozenset[str]
    known: bool


def optimizers(context: Context) -> Iterator[Optimizer]:
    """All optimizers made from torch.optim, or given parameters under an optimizer's name."""
    for function in context.program.functions:
        for statement in function.statements:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
                continue
            call = statement.value
            if (
                context.value(call).kind is not Kind.OPTIMIZER
                and context.value(statement.targets[0]).kind is not Kind.OPTIMIZER
            ):
                continue
            if not call.args and not call.keywords:
                continue
            modules, known = _trained(context, function, call)
            for target in statement.targets:
                if path_of(target):
                    yield Optimizer(path_of(target).rpartition(".")[2], frozenset(modules), known)


def _trained(context: Context, function: FunctionInfo, call: ast.Call) -> tuple[set[str], bool]:
    given = call.args[0] if call.args else next((item.value for item in call.keywords if item.arg == "params"), None)
    if given is None:
        return set(), False
    return _modules_in(context, function, given, 0)


def _modules_in(context: Context, function: FunctionInfo, node: ast.expr, depth: int) -> tuple[set[str], bool]:
    """Modules whose parameters an expression gives, and whether all of it was understood."""
    if depth > _DEPTH:
        return set(), False
    found: set[str] = set()
    known = True
    parts = list(ast.walk(node))
    for call in (item for item in parts if isinstance(item, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("parameters", "named_parameters"):
            path = path_of(call.func.value)
            known = known and bool(path)
            found |= {path} - {""}
        else:  # group_parameters(model)
            found |= {path_of(item) for item in call.args if context.value(item).kind is Kind.MODULE} - {""}
    bound = {
        name.id
        for item in parts
        if isinstance(item, ast.comprehension)
        for name in ast.walk(item.target)
        if isinstance(name, ast.Name)
    }
    roots = {path.partition(".")[0] for path in found}
    for name in (item for item in parts if isinstance(item, ast.Name) and item.id not in bound | roots):
        kind = context.value(name).kind
        if kind in (Kind.CONTAINER, Kind.UNKNOWN, Kind.TUPLE) and not _is_called(node, name):
            sources = _assigned(function, name.id)
            known = known and bool(sources)
            for source in sources:
                more, understood = _modules_in(context, function, source, depth + 1)
                found |= more
                known = known and understood
    return found, known and bool(found)


def _assigned(function: FunctionInfo, name: str) -> list[ast.expr]:
    return [
        statement.value
        for statement in function.statements
        if isinstance(statement, ast.Assign) and any(path_of(target) == name for target in statement.targets)
    ]


def _is_called(node: ast.AST, name: ast.Name) -> bool:
    return any(isinstance(item, ast.Call) and item.func is name for item in ast.walk(node)) or any(
        isinstance(item, ast.keyword) and item.value is name for item in ast.walk(node)
    )

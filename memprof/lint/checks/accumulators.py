"""Running sums and averages that keep the graph of every iteration: MP101, MP112."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.context import Context, shown, sure
from memprof.lint.finding import LintFinding
from memprof.lint.names import base_of, path_of
from memprof.lint.program import FunctionInfo
from memprof.lint.values import Kind, Value

_SUMMING = frozenset("add add_ mul mul_ lerp lerp_ sub".split())


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for function in context.program.functions:
        for statement in function.statements:
            target, added = _accumulation(function, statement)
            if target is None or added is None:
                continue
            value = context.value(added)
            if value.kind is not Kind.GRAPH:
                continue
            outlives = context.flow.outlives(function, target, statement)
            if outlives is None or context.flow.reaches_backward(function, target):
                continue
            yield _finding(context, function, statement, target, added, value)


def _finding(
    context: Context,
    function: FunctionInfo,
    statement: ast.stmt,
    target: ast.expr,
    added: ast.expr,
    value: Value,
) -> LintFinding:
    name = shown(target)
    in_module = context.flow.in_module(function) and isinstance(base_of(target), ast.Attribute)
    if value.weights or (in_module and not value.scalar):
        what = "weights" if value.weights else "features"
        message = (
            f"`{name}` is updated from {what} with autograd on: each update has all earlier ones as its history, "
            "and their graph stays. Update it under `with torch.no_grad():`."
        )
        return context.finding(function, statement, "MP112", message, "no_grad", sure(value))
    item = value.scalar or not isinstance(statement, ast.AugAssign)
    source = f"`{shown(added, 30)}`" if isinstance(statement, ast.AugAssign) else "the tensor that is added"
    message = (
        f"`{name}` sums tensors with their autograd graph: the graph of every iteration stays until `{name}` is reset. "
        f"Add `.item()` of {source}, or `.detach()` of it."
    )
    return context.finding(function, statement, "MP101", message, "item" if item else "detach", sure(value))


def _accumulation(function: FunctionInfo, statement: ast.stmt) -> tuple[ast.expr | None, ast.expr | None]:
    """Target and new value of `a += b` or `a = a + b`."""
    if isinstance(statement, ast.AugAssign) and isinstance(statement.op, (ast.Add, ast.Sub, ast.Mult)):
        return statement.target, statement.value
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Attribute) and target.attr in ("data", "grad"):
            return None, None
        path = path_of(base_of(target))
        if path and any(path_of(base_of(part)) == path for part in _operands(function, statement.value)):
            return target, statement.value
    return None, None


def _operands(function: FunctionInfo, node: ast.expr) -> Iterator[ast.expr]:
    """What a sum or an average is made of."""
    if isinstance(node, ast.BinOp):
        yield from _operands(function, node.left)
        yield from _operands(function, node.right)
    elif isinstance(node, ast.UnaryOp):
        yield from _operands(function, node.operand)
    elif isinstance(node, ast.IfExp):
        yield from _operands(function, node.body)
        yield from _operands(function, node.orelse)
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in _SUMMING:
            if not function.module.qualified(node.func).startswith("torch."):
                yield from _operands(function, node.func.value)
            for argument in node.args:
                yield from _operands(function, argument)
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "get":  # totals.get(name, 0) + loss
            yield node.func.value
    elif isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
        yield node

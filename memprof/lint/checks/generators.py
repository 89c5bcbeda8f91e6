"""Backward passes that go on through a network that is not stepped after them: MP204."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside, is_backward, keyword, path_of, paths_in
from memprof.lint.optimizers import optimizers
from memprof.lint.program import LOOPS, FunctionInfo
from memprof.lint.values import Kind

DETACHING = frozenset("detach item numpy tolist argmax".split())
"""Methods after which a graph is gone."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Backward passes and the optimizers stepped after them.

    Attributes:
        function: Where.
        body: The loop, or the function, whose turns are iterations.
        backwards: The passes.
        steps: Names of the optimizers.
    """

    function: FunctionInfo
    body: ast.AST
    backwards: tuple[ast.Call, ...]
    steps: frozenset[str]


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    trained: dict[str, set[str]] = {}
    for optimizer in optimizers(context):
        trained.setdefault(optimizer.name, set()).update(path.rpartition(".")[2] for path in optimizer.modules)
    if len(trained) < 2:
        return
    groups: list[_Group] = []
    for function in context.program.functions:
        bodies: list[ast.AST] = [*function.loops]
        if function in context.flow.every_iteration and not isinstance(function.node, ast.Module):
            bodies.append(function.node)
        for body in bodies:
            inner = (item for item in inside(body) if isinstance(item, LOOPS) and item is not body)
            if not any(context.flow.backward_in(function, loop) for loop in inner):
                groups += _groups(context, function, body, trained)
    for group in groups:
        own = {name for step in group.steps for name in trained[step]}
        others = {name for other in groups for step in other.steps - group.steps for name in trained[step]} - own
        for backward in group.backwards if others else ():
            found = _through(context, group, backward, own, others)
            if found is not None:
                yield found


def _groups(context: Context, function: FunctionInfo, body: ast.AST, trained: dict[str, set[str]]) -> Iterator[_Group]:
    calls = sorted(
        (item for item in inside(body) if isinstance(item, ast.Call)), key=lambda item: (item.lineno, item.col_offset)
    )
    backwards: list[ast.Call] = []
    steps: set[str] = set()
    for call in calls:
        if is_backward(call):
            if steps:
                yield _Group(function, body, tuple(backwards), frozenset(steps))
                backwards, steps = [], set()
            backwards.append(call)
        elif backwards:
            steps |= _stepped(context, function, call) & set(trained)
    if backwards and steps:
        yield _Group(function, body, tuple(backwards), frozenset(steps))


def _stepped(context: Context, function: FunctionInfo, call: ast.Call) -> set[str]:
    """Names of the optimizers that a call may step: `opt.step()`, `scaler.step(opt)`."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "step":
        return set()
    paths = [path_of(node) for node in (call.func.value, *call.args[:1])]
    return {name for path in paths if path for name in _origins(context, function, path)}


def _origins(context: Context, function: FunctionInfo, path: str, depth: int = 0) -> set[str]:
    """Names of a thing where it comes from: those that callers pass, its own where it is no parameter."""
    passed = [context.flow.argument(function, site.call, path) for site in function.sites]
    if path not in {parameter.arg for parameter in function.parameters} or depth > 3 or not passed:
        return {path.rpartition(".")[2]}
    found: set[str] = set()
    for site, given in zip(function.sites, passed, strict=True):
        if given is not None and path_of(given):
            found |= _origins(context, site.caller, path_of(given), depth + 1)
    return found


def _through(
    context: Context, group: _Group, backward: ast.Call, own: set[str], others: set[str]
) -> LintFinding | None:
    """The call of the stepped network whose input still hangs on another network."""
    function = group.function
    others_behind = [
        call
        for item in inside(group.body)
        if isinstance(item, ast.Call) and is_backward(item) and item is not backward
        for call in _behind(group.body, item)
    ]
    for call in _behind(group.body, backward):
        called = path_of(call.func)
        if not called or context.value(call.func).kind is not Kind.MODULE or call in others_behind:
            continue  # an output that the other network is trained by, too, needs its graph
        if not _origins(context, function, called) & own:
            continue
        assigned = _assigned_before(group.body, backward)
        for argument in call.args:
            for behind in _calls_behind(argument, assigned, set()):
                name = path_of(behind.func)
                if not name or not context.value(behind).has_graph or not context.value(argument).has_graph:
                    continue
                origins = _origins(context, function, name)
                if origins <= others and origins:
                    given = shown(argument, 30)
                    cut = f"Pass `{given}.detach()`."
                    if _is_differentiated_by(group, argument):
                        cut = f"Begin anew with it: `{given} = {given}.detach().requires_grad_()`."
                    message = (
                        f"`{given}` comes from `{name}` with its graph, but only `{called}` is stepped after this "
                        f"backward pass: it goes on through `{name}` for nothing. {cut}"
                    )
                    return context.finding(function, call, "MP204", message, "detach", Confidence.MEDIUM)
    return None


def _is_differentiated_by(group: _Group, argument: ast.expr) -> bool:
    """Whether gradients with respect to an argument are asked for, as a penalty on them does."""
    for call in (item for item in inside(group.body) if isinstance(item, ast.Call)):
        if group.function.module.qualified(call.func) == "torch.autograd.grad":
            inputs = keyword(call, "inputs") or (call.args[1] if len(call.args) > 1 else None)
            if inputs is not None and path_of(argument) in paths_in(inputs) - {""}:
                return True
    return False


def _assigned_before(body: ast.AST, backward: ast.Call) -> dict[str, ast.expr]:
    """What names stand for where a backward pass runs."""
    assigned: dict[str, ast.expr] = {}
    statements = (item for item in inside(body) if isinstance(item, ast.Assign) and item.lineno <= backward.lineno)
    for item in sorted(statements, key=lambda item: item.lineno):
        for target in item.targets:
            if path_of(target):
                assigned[path_of(target)] = item.value
    return assigned


def _behind(body: ast.AST, backward: ast.Call) -> list[ast.Call]:
    """Calls that a backward pass goes through."""
    if not isinstance(backward.func, ast.Attribute):
        return []
    return list(_calls_behind(backward.func.value, _assigned_before(body, backward), set()))


def _calls_behind(node: ast.AST, assigned: dict[str, ast.expr], seen: set[str]) -> Iterator[ast.Call]:
    """Calls whose graph an expression hangs on, through what is assigned to names before it."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in DETACHING:
            return
        yield node
    if isinstance(node, (ast.Name, ast.Attribute)):
        path = path_of(node)
        if path in assigned and path not in seen:
            yield from _calls_behind(assigned[path], assigned, seen | {path})
            return
    if isinstance(node, ast.Attribute) and node.attr in ("data", "grad"):
        return
    for child in ast.iter_child_nodes(node):
        yield from _calls_behind(child, assigned, seen)

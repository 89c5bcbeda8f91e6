"""Backward passes that go on through a network that is not stepped after them: MP204."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside, is_backward, keyword, path_of, paths_in
from memprof.lint.optimizers import optimizers
from memprof.lint.program import LOOPS, FunctionInfo, Site
from memprof.lint.values import Kind

_DEPTH = 3
"""How many calls are followed into functions or out of them."""

_END = 10**9
"""Below every line of a file."""

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
    behind = _Behind(context)
    others_behind = {
        call
        for item in inside(group.body)
        if isinstance(item, ast.Call) and is_backward(item) and item is not backward
        for _, call in behind.backward(group, item)
    }
    for place, call in behind.backward(group, backward):
        called = path_of(call.func)
        if not called or context.value(call.func).kind is not Kind.MODULE or call in others_behind:
            continue  # an output that the other network is trained by, too, needs its graph
        if not _origins(context, place.function, called) & own:
            continue
        for argument in call.args:
            for maker, made in behind.expression(argument, place):
                name = path_of(made.func)
                if not name or not context.value(made).has_graph or not context.value(argument).has_graph:
                    continue
                origins = _origins(context, maker.function, name)
                if origins <= others and origins:
                    given = shown(argument, 30)
                    cut = f"Pass `{given}.detach()`."
                    if _is_differentiated_by(group, argument):
                        cut = f"Begin anew with it: `{given} = {given}.detach().requires_grad_()`."
                    message = (
                        f"`{given}` comes from `{name}` with its graph, but only `{called}` is stepped after this "
                        f"backward pass: it goes on through `{name}` for nothing. {cut}"
                    )
                    return context.finding(place.function, call, "MP204", message, "detach", Confidence.MEDIUM)
    return None


def _is_differentiated_by(group: _Group, argument: ast.expr) -> bool:
    """Whether gradients with respect to an argument are asked for, as a penalty on them does."""
    for call in (item for item in inside(group.body) if isinstance(item, ast.Call)):
        if group.function.module.qualified(call.func) == "torch.autograd.grad":
            inputs = keyword(call, "inputs") or (call.args[1] if len(call.args) > 1 else None)
            if inputs is not None and path_of(argument) in paths_in(inputs) - {""}:
                return True
    return False


@dataclass(frozen=True, slots=True)
class _Place:
    """A point of a function.

    Attributes:
        function: The function.
        assigned: What names stand for there.
        caller: Where it is called from, and how, if that is known.
    """

    function: FunctionInfo
    assigned: dict[str, ast.expr]
    caller: tuple[_Place, ast.Call] | None = None


_Found = tuple[_Place, ast.Call]


class _Behind:
    """Answers which calls the graph of an expression hangs on, through names and functions.

    Args:
        context: What is known.
    """

    def __init__(self, context: Context) -> None:
        self._flow = context.flow

    def backward(self, group: _Group, backward: ast.Call) -> list[_Found]:
        """Calls that a backward pass goes through."""
        if not isinstance(backward.func, ast.Attribute):
            return []
        place = _Place(group.function, _assigned_before(group.body, backward.lineno))
        return list(self.expression(backward.func.value, place))

    def expression(
        self, node: ast.AST, place: _Place, seen: frozenset[str] = frozenset(), depth: int = 0
    ) -> Iterator[_Found]:
        """Calls whose graph an expression hangs on, and where each is."""
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in DETACHING:
                return
            yield place, node
            yield from self._inside(node, place, depth)
        if isinstance(node, (ast.Name, ast.Attribute)):
            path = path_of(node)
            if path in place.assigned and path not in seen:
                yield from self.expression(place.assigned[path], place, seen | {path}, depth)
                return
            if isinstance(node, ast.Name) and path not in place.assigned:
                yield from self._passed(path, place, depth)
        if isinstance(node, ast.Attribute) and node.attr in ("data", "grad"):
            return
        for child in ast.iter_child_nodes(node):
            yield from self.expression(child, place, seen, depth)

    def _inside(self, call: ast.Call, place: _Place, depth: int) -> Iterator[_Found]:
        """What a function returns that is called from nowhere else, as one that computes a loss is."""
        for callee in self._flow.callees(call) if depth < _DEPTH else ():
            if len(callee.sites) != 1 or self._flow.in_module(callee):
                continue
            inner = _Place(callee, _assigned_before(callee.node, _END), (place, call))
            for statement in callee.statements:
                if isinstance(statement, ast.Return) and statement.value is not None:
                    yield from self.expression(statement.value, inner, frozenset(), depth + 1)

    def _passed(self, name: str, place: _Place, depth: int) -> Iterator[_Found]:
        """What callers pass for a parameter."""
        function = place.function
        if depth >= _DEPTH or name not in {item.arg for item in function.parameters}:
            return
        if place.caller is not None:
            callers = [place.caller]
        else:
            callers = [(self._around(site), site.call) for site in function.sites]
        for outer, call in callers:
            given = self._flow.argument(function, call, name)
            if given is not None:
                yield from self.expression(given, outer, frozenset(), depth + 1)

    def _around(self, site: Site) -> _Place:
        """The iteration that a call is in, or the function."""
        around = self._flow.iteration_loop(site.caller, site.call)
        body = around[0] if around is not None else site.caller.node
        return _Place(site.caller, _assigned_before(body, site.call.lineno))


def _assigned_before(body: ast.AST, line: int) -> dict[str, ast.expr]:
    """What names stand for at a line."""
    assigned: dict[str, ast.expr] = {}
    statements = (item for item in inside(body) if isinstance(item, ast.Assign) and item.lineno <= line)
    for item in sorted(statements, key=lambda item: item.lineno):
        for target in item.targets:
            if path_of(target):
                assigned[path_of(target)] = item.value
    return assigned

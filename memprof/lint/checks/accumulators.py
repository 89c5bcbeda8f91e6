"""Running sums and averages that keep the graph of every iteration: MP101, MP112."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from memprof.lint.checks.joined import JOINING, is_reduced_later
from memprof.lint.context import Context, shown, sure
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import base_of, parts_of, path_of, paths_in, text_of
from memprof.lint.program import FunctionInfo
from memprof.lint.values import Kind, Value

_SUMMING = frozenset("add add_ mul mul_ lerp lerp_ sub".split())
_KEEPING = frozenset("clone contiguous to float squeeze view reshape".split())
_WEIGHTS = frozenset("parameters named_parameters buffers named_buffers".split())
_DEPTH = 2
"""How many names are followed back."""


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for function in context.program.functions:
        for statement, target, value_given in _assignments(function):
            found = _accumulation(context, function, statement, target, value_given)
            if found is None:
                continue
            value = context.value(found.added)
            if found.each:
                value = value.element or value
            if value.kind is Kind.PARAMETER and found.stored:
                value = Value(Kind.GRAPH, weights=True, guess=value.guess)
            if found.grows and value.kind is Kind.TENSOR:
                yield from _joined(context, function, statement, found, value)
            if value.kind is not Kind.GRAPH or context.knowledge.grad.get(statement) is False:
                continue
            outlives = context.flow.outlives(function, found.target, statement)
            if outlives is None and not _is_weight(context, function, found.target, statement):
                continue
            if context.flow.reaches_backward(function, found.target) or _is_cut(context, function, statement, found):
                continue
            if _is_cut_elsewhere(context, function, found.target):
                continue
            finding = _finding(context, function, statement, found, value, passing=outlives == "steps")
            if finding is not None:
                yield finding


@dataclass(frozen=True, slots=True)
class _Accumulation:
    """A statement that makes a value from its old one.

    Attributes:
        target: What it is.
        added: What comes in.
        stored: By writing features or weights into a store.
        grows: By joining, so that it gets longer.
        each: Several values at once, each made from its old one.
    """

    target: ast.expr
    added: ast.expr
    stored: bool = False
    grows: bool = False
    each: bool = False


def _is_cut(context: Context, function: FunctionInfo, statement: ast.stmt, found: _Accumulation) -> bool:
    """Whether a later statement of the same block rebinds the target without its graph: `k = k.detach()`."""
    path = path_of(found.target)
    parent = function.module.parents.get(statement)
    block = next((body for body in _blocks(parent) if statement in body), [])
    return bool(path) and any(
        isinstance(item, ast.Assign)
        and item.lineno > statement.lineno
        and any(path_of(target) == path for target in item.targets)
        and context.value(item.value).kind in (Kind.PLAIN, Kind.TENSOR)
        for item in block
    )


def _is_cut_elsewhere(context: Context, function: FunctionInfo, target: ast.expr) -> bool:
    """Whether another function detaches an attribute, as one does that is called where an iteration ends."""
    holder = base_of(target)
    if not isinstance(holder, ast.Attribute):
        return False
    for other in context.program.functions:
        for call in other.calls if other is not function else ():
            func = call.func
            if not isinstance(func, ast.Attribute) or getattr(func.value, "attr", "") != holder.attr:
                continue
            user = other.module.parents.get(call)
            again = isinstance(user, ast.Assign) and any(
                getattr(item, "attr", "") == holder.attr for item in user.targets
            )
            if func.attr == "detach_" or (func.attr == "detach" and again):
                return True
    return False


def _blocks(node: ast.AST | None) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        body = getattr(node, name, None)
        if isinstance(body, list):
            yield body


def _is_weight(context: Context, function: FunctionInfo, target: ast.expr, statement: ast.stmt) -> bool:
    """Whether a name stands for each of a module's parameters in turn, in every iteration."""
    loop = next(iter(function.module.loops_of(statement)), None)
    if not isinstance(loop, ast.For) or path_of(target) not in {path_of(part) for part in parts_of(loop.target)}:
        return False
    weights = any(isinstance(item, ast.Attribute) and item.attr in _WEIGHTS for item in ast.walk(loop.iter))
    return weights and (
        context.flow.iteration_loop(function, statement) is not None or function in context.flow.every_iteration
    )


def _finding(
    context: Context, function: FunctionInfo, statement: ast.stmt, found: _Accumulation, value: Value, *, passing: bool
) -> LintFinding | None:
    # Steps may be those of a sequence, over which something is summed up on purpose.
    confidence = Confidence.LOW if passing else sure(value)
    name = shown(found.target)
    in_module = context.flow.in_module(function) and isinstance(base_of(found.target), ast.Attribute)
    if value.weights or (not value.scalar and (in_module or found.stored)):
        what = "weights" if value.weights else "features"
        if not value.weights and (
            function in context.knowledge.evaluating or context.flow.lifetimes.begun_anew(function, found.target)
        ):
            return None  # a sequence, or an inference that its caller sees to
        message = (
            f"`{name}` is updated from {what} with autograd on: each update has all earlier ones as its history, "
            "and their graph stays. Update it under `with torch.no_grad():`."
        )
        return context.finding(function, statement, "MP112", message, "no_grad", confidence)
    if found.grows:
        message = (
            f"`{name}` grows by the outputs of every iteration, with their autograd graph. Join `.detach()` of them, "
            "or `.detach().cpu()`."
        )
        return context.finding(function, statement, "MP102", message, "detach", confidence)
    item = value.scalar or not isinstance(statement, ast.AugAssign)
    source = f"`{shown(found.added, 30)}`" if isinstance(statement, ast.AugAssign) else "the tensor that is added"
    message = (
        f"`{name}` sums tensors with their autograd graph: the graph of every iteration stays until `{name}` is reset. "
        f"Add `.item()` of {source}, or `.detach()` of it."
    )
    return context.finding(function, statement, "MP101", message, "item" if item else "detach", confidence)


def _joined(
    context: Context, function: FunctionInfo, statement: ast.stmt, found: _Accumulation, value: Value
) -> Iterator[LintFinding]:
    """Outputs of an evaluation, joined batch by batch on the device."""
    call = next((item for item in ast.walk(found.added) if isinstance(item, ast.Call)), None)
    if call is None or value.host or not value.activation or value.guessed:
        return
    if context.flow.outlives(function, found.target, statement) != "evaluation":
        return
    name = shown(found.target)
    message = (
        f"`{name}` gathers the outputs of the whole data set on the device, and each iteration copies all of them. "
        "Reduce each batch as it comes, or append `.cpu()` of it to a list and join that once."
    )
    # Small outputs are gathered so on purpose, and the source does not tell their size.
    confidence = Confidence.MEDIUM if is_reduced_later(function, call) else Confidence.LOW
    yield context.finding(function, statement, "MP205", message, "move_to_cpu", confidence)


def _assignments(function: FunctionInfo) -> Iterator[tuple[ast.stmt, ast.expr | None, ast.expr | None]]:
    """Statements with what they assign to what: a pair for each of `total, count = total + loss, count + 1`."""
    for statement in function.statements:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            yield statement, None, None
            continue
        target, value = statement.targets[0], statement.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for part, given in zip(target.elts, value.elts, strict=True):
                yield statement, part, given
        else:
            yield statement, target, value


def _accumulation(
    context: Context,
    function: FunctionInfo,
    statement: ast.stmt,
    target: ast.expr | None,
    given: ast.expr | None,
) -> _Accumulation | None:
    """What `a += b`, `a = a + b`, `a.add_(b)`, `a[i] = b`, and `a = torch.cat([a, b])` accumulate."""
    if isinstance(statement, ast.AugAssign) and isinstance(statement.op, (ast.Add, ast.Sub, ast.Mult)):
        return _Accumulation(statement.target, statement.value)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return _in_place(context, statement.value)
    if target is None or given is None:
        return None
    if isinstance(target, ast.Attribute) and target.attr in ("data", "grad"):
        return None
    path = path_of(base_of(target))
    if not path or _is_kept(given, path):
        return None
    if isinstance(given, (ast.ListComp, ast.DictComp)) and _sums_each(given, path):
        return _Accumulation(target, given, each=True)
    if any(_is_same(part, target) for part in _operands(function, given, statement, _DEPTH)):
        return _Accumulation(target, given)
    if isinstance(target, ast.Subscript):
        store = context.value(target.value)
        if store.kind in (Kind.TENSOR, Kind.GRAPH) and not store.guessed and not store.output:
            return _Accumulation(target, given, stored=True)
    sliced = isinstance(given, ast.Subscript)
    joined = given.value if isinstance(given, ast.Subscript) else given
    for part in (joined.body, joined.orelse) if isinstance(joined, ast.IfExp) else (joined,):
        if isinstance(part, ast.Call) and function.module.qualified(part.func) in JOINING and part.args:
            items = part.args[0].elts if isinstance(part.args[0], (ast.List, ast.Tuple)) else []
            if any(path_of(base_of(item)) == path for item in items):
                return _Accumulation(target, given, stored=sliced, grows=not sliced)
    return None


def _sums_each(node: ast.ListComp | ast.DictComp, path: str) -> bool:
    """`sums = [a + b for a, b in zip(sums, losses)]`, `sums = {name: sums[name] + loss for name, loss in ...}`."""
    made = node.value if isinstance(node, ast.DictComp) else node.elt
    if not isinstance(made, ast.BinOp) or not isinstance(made.op, (ast.Add, ast.Sub)):
        return False
    old = {
        part.id
        for generator in node.generators
        if path in paths_in(generator.iter)
        for part in ast.walk(generator.target)
        if isinstance(part, ast.Name)
    }
    parts = {path_of(base_of(part)) for part in ast.walk(made) if isinstance(part, (ast.Name, ast.Subscript))}
    return bool(parts & old) or path in parts


def _is_same(part: ast.expr, target: ast.expr) -> bool:
    """Whether an operand is what is assigned: not where both are entries whose keys are known to differ."""
    if path_of(base_of(part)) != path_of(base_of(target)):
        return False
    keys = [text_of(node.slice) if isinstance(node, ast.Subscript) else None for node in (part, target)]
    return None in keys or keys[0] == keys[1]


def _is_kept(node: ast.expr, path: str) -> bool:
    """Whether an expression is what a name stands for already: `state = state.to(device)`."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _KEEPING:
        node = node.func.value
    return path_of(base_of(node)) == path


def _in_place(context: Context, call: ast.Call) -> _Accumulation | None:
    """`average.mul_(0.9).add_(0.1 * weight)`."""
    added: ast.expr | None = None
    node: ast.expr = call
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if not node.func.attr.endswith("_") or node.func.attr.startswith("_"):
            return None
        for argument in node.args:
            if context.value(argument).has_graph or context.value(argument).kind is Kind.PARAMETER:
                added = argument
        node = node.func.value
    if added is None or not path_of(base_of(node)) or (isinstance(node, ast.Attribute) and node.attr == "data"):
        return None
    held = context.value(node).kind in (Kind.TENSOR, Kind.GRAPH)
    return _Accumulation(node, added, stored=True) if held else None


def _operands(function: FunctionInfo, node: ast.expr, before: ast.stmt, depth: int) -> Iterator[ast.expr]:
    """What a sum or an average is made of, also through names that are assigned just before."""
    if isinstance(node, ast.BinOp):
        yield from _operands(function, node.left, before, depth)
        yield from _operands(function, node.right, before, depth)
    elif isinstance(node, ast.UnaryOp):
        yield from _operands(function, node.operand, before, depth)
    elif isinstance(node, ast.IfExp):
        for part in (node.body, node.orelse):
            if isinstance(part, (ast.BinOp, ast.Call)):  # and not what a name stands for already
                yield from _operands(function, part, before, depth)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in _SUMMING:
            if not function.module.qualified(node.func).startswith("torch."):
                yield from _operands(function, node.func.value, before, depth)
            for argument in node.args:
                yield from _operands(function, argument, before, depth)
        elif node.func.attr in _KEEPING:
            yield from _operands(function, node.func.value, before, depth)
        elif node.func.attr == "get":  # totals.get(name, 0) + loss
            yield node.func.value
    elif isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)):
        yield node
        if isinstance(node, ast.Name) and depth:
            for statement in function.statements:
                if isinstance(statement, ast.Assign) and statement.lineno < before.lineno:
                    if any(path_of(target) == node.id for target in statement.targets):
                        if isinstance(statement.value, (ast.BinOp, ast.Call)):
                            yield from _operands(function, statement.value, statement, depth - 1)

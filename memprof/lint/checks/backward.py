"""Graphs kept by the arguments of a backward pass: MP105, MP106."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.checks.recurrent import carried_state
from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside, is_backward, is_constant, keyword, path_of
from memprof.lint.program import FunctionInfo, Site
from memprof.lint.values import Kind
from memprof.lint.vocabulary import PLAIN_FUNCTIONS

_SECOND_ORDER = ("hessian", "hvp", "hutchinson", "sophia", "maml", "penalty")


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for function in context.program.functions:
        for call in function.calls:
            retains = is_constant(keyword(call, "retain_graph"), True)
            if is_backward(call) and isinstance(call.func, ast.Attribute):
                if retains:
                    yield from _retained(context, function, call, call.func.value)
                if is_constant(keyword(call, "create_graph"), True):
                    yield from _created(context, function, call)
            elif function.module.qualified(call.func) == "torch.autograd.grad" and call.args:
                if retains:
                    yield from _retained(context, function, call, call.args[0])
                if is_constant(keyword(call, "create_graph"), True):
                    yield from _gradients(context, function, call)


def _retained(context: Context, function: FunctionInfo, call: ast.Call, root: ast.expr) -> Iterator[LintFinding]:
    """A pass that keeps the graph of `root`, which no other pass goes through."""
    if is_constant(keyword(call, "create_graph"), True) or not context.value(root).has_graph:
        return
    around = context.flow.iteration_loop(function, call)
    if around is not None:
        region: ast.AST = around[0]
    elif function in context.flow.every_iteration and not context.flow.result_reaches_backward(function):
        region = function.node
        for site in function.sites:
            around_site = _region(context, site)
            if _passes(context, site.caller, around_site, call, root):
                return
            if _graph_from_outside(context, site.caller, around_site):
                return
    else:
        return
    if call not in list(inside(region)) or _conditional(function, call, region):
        return
    if function.module.loops_of(call)[:1] != ([region] if around is not None else []):
        return
    if _passes(context, function, region, call, root) or _graph_from_outside(context, function, region):
        return
    message = (
        "`retain_graph=True` keeps every saved activation after the only backward pass that uses them, until "
        f"`{shown(root, 30)}` is rebound. Leave it out."
    )
    # Steps on one batch, again and again, may go through a graph that was made before them.
    again = around is not None and _counts(around[0]) and _takes_over(context, function, around[0])
    confidence = Confidence.LOW if again else Confidence.MEDIUM
    yield context.finding(function, call, "MP105", message, "remove_retain_graph", confidence)


def _counts(loop: ast.AST) -> bool:
    """Whether a loop goes over numbers: `range(steps)`, `tqdm(range(steps))`."""
    return isinstance(loop, (ast.For, ast.AsyncFor)) and any(
        isinstance(item, ast.Name) and item.id in ("range", "trange") for item in ast.walk(loop.iter)
    )


def _takes_over(context: Context, function: FunctionInfo, loop: ast.AST) -> bool:
    """Whether a loop uses objects that the loop around it makes in each turn."""
    around = next(iter(function.module.loops_of(loop)), None)
    if around is None:
        return False
    within = set(inside(loop))
    made = {
        item.id
        for part in around.body
        for item in inside(part)
        if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store) and item not in within
    }
    return any(
        isinstance(item, ast.Name)
        and isinstance(item.ctx, ast.Load)
        and item.id in made
        and context.value(item).kind is not Kind.PLAIN
        for item in within
    )


def _region(context: Context, site: Site) -> ast.AST:
    around = context.flow.iteration_loop(site.caller, site.call)
    return around[0] if around is not None else site.caller.node


def _conditional(function: FunctionInfo, call: ast.Call, region: ast.AST) -> bool:
    for parent in function.module.parents_of(call):
        if parent is region:
            return False
        if isinstance(parent, (ast.If, ast.IfExp, ast.Try)):
            return True
    return False


def _passes(context: Context, function: FunctionInfo, region: ast.AST, call: ast.Call, root: ast.expr) -> bool:
    """Whether another pass follows a call in the same iteration, or could."""
    for item in inside(region):
        if not isinstance(item, ast.Call) or item is call:
            continue
        later = call not in function.calls or (item.lineno, item.col_offset) > (call.lineno, call.col_offset)
        if later and (is_backward(item) or function.module.qualified(item.func).startswith("torch.autograd.")):
            return True
        others = context.flow.handed_over(function, item) if later else []
        if any(path_of(other) != path_of(root) for other in others if path_of(other)):
            return True  # another loss of the same graph, perhaps
        callees = context.flow.callees(item)
        if any(call not in callee.calls and callee in context.flow.trains for callee in callees):
            return True
    return False


def _graph_from_outside(context: Context, function: FunctionInfo, loop: ast.AST) -> bool:
    """Whether the loss depends on a graph built before the loop, or on one that iterations hand on."""
    bound: set[str] = set()
    parameters = {item.arg for item in function.parameters} if loop is function.node else set()
    for item in inside(loop):
        if isinstance(item, ast.Assign) and carried_state(context, function, item) is not None:
            return True
        if any(_carries(context, callee) for callee in context.flow.callees(item)):
            return True
        if isinstance(item, (ast.Name, ast.Attribute)) and isinstance(item.ctx, ast.Store):
            bound.add(path_of(item))
    first_use: dict[str, tuple[int, int, bool]] = {}
    for item in inside(loop):
        if isinstance(item, (ast.Name, ast.Attribute)) and path_of(item):
            path, place = path_of(item), (item.lineno, item.col_offset)
            if path not in first_use or place < first_use[path][:2]:
                first_use[path] = (*place, isinstance(item.ctx, ast.Store))
    for item in inside(loop):
        if isinstance(item, (ast.Name, ast.Attribute)) and isinstance(item.ctx, ast.Load):
            path = path_of(item)
            outside = path not in bound or not first_use.get(path, (0, 0, True))[2]
            if path and path not in parameters and outside and context.value(item).has_graph:
                return True
    return False


def _carries(context: Context, function: FunctionInfo) -> bool:
    """Whether a function of a module goes on from a state that it has kept."""
    return context.flow.in_module(function) and any(
        isinstance(item, ast.Assign) and carried_state(context, function, item) is not None
        for item in function.statements
    )


def _created(context: Context, function: FunctionInfo, call: ast.Call) -> Iterator[LintFinding]:
    """`loss.backward(create_graph=True)`; PyTorch warns of it as well."""
    text = ast.unparse(function.node).lower()
    if any(word in text for word in _SECOND_ORDER) or text.count("backward(") > 1 or "autograd.grad(" in text:
        return
    optimizer_file = ast.unparse(function.module.tree).lower()
    if "hessian" in optimizer_file or "sophia" in optimizer_file:
        return
    message = (
        "`create_graph=True` stores gradients that have a graph in `.grad`: a cycle with the parameters that holds "
        "every activation until the gradients are freed. No later pass differentiates them here: leave it out."
    )
    yield context.finding(function, call, "MP106", message, "remove_create_graph", Confidence.MEDIUM)


def _gradients(context: Context, function: FunctionInfo, call: ast.Call) -> Iterator[LintFinding]:
    """`torch.autograd.grad(..., create_graph=True)` whose result nothing differentiates."""
    statement = function.module.statement_of(call)
    if not isinstance(statement, ast.Assign):
        return
    targets = [item for target in statement.targets for item in ast.walk(target) if isinstance(item, ast.Name)]
    if not targets or context.flow.iteration_loop(function, call) is None:
        return
    for target in targets:
        if context.flow.reaches_backward(function, target) or _used_on(function, target.id, statement):
            return
    message = (
        f"`create_graph=True` builds a graph of `{targets[0].id}` that no backward pass goes through; it holds every "
        "activation as long as the gradients. Leave it out."
    )
    yield context.finding(function, call, "MP106", message, "remove_create_graph", Confidence.MEDIUM)


def _used_on(function: FunctionInfo, name: str, statement: ast.stmt) -> bool:
    """Whether gradients go where the check cannot follow: into a call, out of the function, into another grad."""
    for part in function.body:
        for item in inside(part):
            if isinstance(item, (ast.Return, ast.Yield)) and item.value is not None:
                if any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(item.value)):
                    return True
            if isinstance(item, ast.Call) and item.lineno > statement.lineno:
                called = function.module.qualified(item.func)
                if called.startswith("torch.autograd."):
                    return True
                given = (*item.args, *(one.value for one in item.keywords))
                followed = called in PLAIN_FUNCTIONS | {"zip", "enumerate", "sum"} or called.startswith("torch.")
                if not followed and any(path_of(one) == name for one in given):
                    return True
    return False

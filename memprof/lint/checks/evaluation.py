"""Evaluation with autograd on: MP201."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.context import Context, shown, sure
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside
from memprof.lint.program import FunctionInfo


def check(context: Context) -> Iterator[LintFinding]:
    """Find them, one for each loop or function that evaluates."""
    for function in context.program.functions:
        if context.flow.in_module(function):
            continue
        seen: set[ast.AST] = set()
        for call in sorted(function.calls, key=lambda item: (item.lineno, item.col_offset)):
            if not _runs_model(context, function, call) or context.knowledge.grad.get(call) is not True:
                continue
            region: ast.AST = next(iter(function.module.loops_of(call)), function.node)
            if region in seen or not context.value(call).has_graph or not _evaluates(context, function, call):
                continue
            if _is_differentiated(context, function, call) or _is_cut_in_training(context, function, call):
                continue
            if _asks_for_gradients(function):
                break
            seen.add(region)
            yield _finding(context, function, call)


def _runs_model(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    """Whether a call runs a model, or a function in which training runs it as well."""
    if context.flow.is_forward(call):
        return True
    callee = context.flow.callees.get(call)
    if callee is None or callee is function or callee in context.knowledge.evaluating or callee in context.flow.trains:
        return False
    return callee in context.flow.applies and function in context.knowledge.evaluating


def _evaluates(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    if context.is_test(function):
        return False
    if context.value(call.func).evaluating:
        return True
    return function in context.knowledge.evaluating and function not in context.flow.trains


def _asks_for_gradients(function: FunctionInfo) -> bool:
    """Saliency maps, adversarial examples, penalties: gradients of an evaluated model."""
    for part in function.body:
        for item in inside(part):
            if isinstance(item, ast.Attribute) and item.attr in ("requires_grad", "requires_grad_", "enable_grad"):
                return not isinstance(function.node, ast.Module)
            if isinstance(item, ast.Call) and function.module.qualified(item.func).startswith("torch.autograd.grad"):
                return True
    return False


def _is_differentiated(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    """Whether a backward pass goes through the output."""
    statement = function.module.statement_of(call)
    if isinstance(statement, ast.Return):
        return context.flow.result_reaches_backward(function)
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [item for target in targets for item in ast.walk(target) if isinstance(item, (ast.Name, ast.Attribute))]
        return any(context.flow.reaches_backward(function, name) for name in names)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        func = statement.value.func
        if isinstance(func, ast.Attribute):
            return func.attr == "backward" or context.flow.reaches_backward(function, func.value)
    return False


def _is_cut_in_training(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    """Whether the output is a target of a training iteration, and its graph gone at once: `net(x).detach()`."""
    around = context.flow.iteration_loop(function, call)
    user = function.module.parents.get(call)
    return around is not None and around[1] == "training" and isinstance(user, ast.Attribute) and user.attr == "detach"


def _finding(context: Context, function: FunctionInfo, call: ast.Call) -> LintFinding:
    through = not context.flow.is_forward(call)
    confidence = Confidence.MEDIUM if through else sure(context.value(call.func))
    around = context.flow.iteration_loop(function, call)
    if around is None and function not in context.flow.every_iteration:
        confidence = Confidence.LOW  # one forward pass
    elif not function.sites and isinstance(function.module.statement_of(call), ast.Return):
        confidence = Confidence.LOW  # who calls it may want gradients
    place = "the loop" if isinstance(function.node, ast.Module) or around is not None else f"`{function.name}()`"
    what = f"The model of `{shown(call.func)}()`" if through else f"`{shown(call.func)}`"
    message = (
        f"{what} is evaluated here with autograd on: its activations are saved for a backward pass that "
        f"never comes, and held by its output. Put {place} under `with torch.no_grad():`."
    )
    return context.finding(function, call, "MP201", message, "no_grad", confidence)

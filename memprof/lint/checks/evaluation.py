"""Evaluation with autograd on: MP201."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.checks.modes import other_mode
from memprof.lint.context import Context, shown, sure
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside
from memprof.lint.program import FunctionInfo, Loop

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_STEPPING = frozenset("step zero_grad".split())
_TRAINING_NAMES = ("train", "fit", "learn", "finetune")


def check(context: Context) -> Iterator[LintFinding]:
    """Find them, one for each loop or function that evaluates."""
    for function in context.program.functions:
        if context.flow.in_module(function) or context.is_test(function):
            continue
        seen: set[ast.AST] = set()
        whole = False
        for call in sorted(function.calls, key=lambda item: (item.lineno, item.col_offset)):
            if not _runs_model(context, function, call) or context.knowledge.grad.get(call) is not True:
                continue
            region: ast.AST = next(iter(function.module.loops_of(call)), function.node)
            if whole or region in seen or not context.value(call).has_graph:
                continue
            finding = _judge(context, function, call)
            if finding is None:
                continue
            if _asks_for_gradients(function):
                break
            seen.add(region)
            whole = region is function.node and finding.confidence is not Confidence.LOW
            yield finding


def _judge(context: Context, function: FunctionInfo, call: ast.Call) -> LintFinding | None:
    if _evaluates(context, function, call):
        if _is_differentiated(context, function, call) or _is_cut_in_training(context, function, call):
            return None
        return _finding(context, function, call)
    around = context.flow.iteration_loop(function, call)
    if around is None or not context.flow.is_forward(call):
        return None
    loop, kind = around
    if kind == "evaluation" and _gives_no_gradients(context, function, loop):
        if not _is_differentiated(context, function, call):
            return _finding(context, function, call, Confidence.MEDIUM)
    mode = other_mode(context, function, loop, call) if kind == "training" else None
    return _in_both_modes(context, function, call, mode) if mode is not None else None


def _runs_model(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    """Whether a call runs a model, or a function in which training runs it as well."""
    if context.flow.is_forward(call):
        return True
    if function not in context.knowledge.evaluating:
        return False
    apart = context.knowledge.evaluating | context.flow.trains | {function}
    return any(callee in context.flow.applies and callee not in apart for callee in context.flow.callees(call))


def _evaluates(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    """Whether a model is in evaluation mode, or the function is called as those that evaluate."""
    if context.value(context.flow.module_run(call) or call.func).evaluating:
        return True
    return function in context.knowledge.evaluating and function not in context.flow.trains


def _gives_no_gradients(context: Context, function: FunctionInfo, loop: Loop) -> bool:
    """Whether nothing that a loop computes can be differentiated: it stays in what is under check, and in numbers."""
    if any(name in function.name.lower() for name in _TRAINING_NAMES) and function not in context.flow.trains:
        return False  # its backward pass may be where the check cannot see it
    if function.returns.has_graph and not function.sites:
        return False
    for item in inside(loop):
        if isinstance(item, (ast.Yield, ast.YieldFrom, ast.Await)):
            return False
        if isinstance(item, ast.Call):
            if isinstance(item.func, ast.Attribute) and item.func.attr in _STEPPING:
                return False
            if context.flow.handed_over(function, item):
                return False
    return True


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
        if statement.value is call:
            return function in context.flow.trains  # its layers keep what is differentiated, as those for styles do
        if isinstance(func, ast.Attribute):
            return func.attr == "backward" or context.flow.reaches_backward(function, func.value)
    return False


def _is_cut_in_training(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    """Whether the output is a target of a training iteration, and its graph gone at once: `net(x).detach()`."""
    around = context.flow.iteration_loop(function, call)
    user = function.module.parents.get(call)
    return around is not None and around[1] == "training" and isinstance(user, ast.Attribute) and user.attr == "detach"


def _finding(
    context: Context, function: FunctionInfo, call: ast.Call, most: Confidence = Confidence.HIGH
) -> LintFinding:
    through = not context.flow.is_forward(call)
    confidence = (
        Confidence.MEDIUM
        if through
        else min(most, sure(context.value(context.flow.module_run(call))), key=lambda one: one.rank)
    )
    around = context.flow.iteration_loop(function, call)
    repeated = around is not None or _in_comprehension(context, function, call)
    if not repeated and function not in context.flow.every_iteration:
        confidence = Confidence.LOW  # one forward pass
    elif not function.sites and isinstance(function.module.statement_of(call), ast.Return) and around is None:
        confidence = Confidence.LOW  # who calls it may want gradients
    place = "the loop" if isinstance(function.node, ast.Module) or around is not None else f"`{function.name}()`"
    what = f"The model of `{shown(call.func)}()`" if through else f"`{shown(call.func)}`"
    message = (
        f"{what} is evaluated here with autograd on: its activations are saved for a backward pass that "
        f"never comes, and held by its output. Put {place} under `with torch.no_grad():`."
    )
    return context.finding(function, call, "MP201", message, "no_grad", confidence)


def _in_comprehension(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    """Whether a call is made for each batch of a loader that a comprehension goes over."""
    return any(
        isinstance(parent, _COMPREHENSIONS) and context.flow.gives_batches(parent.generators[0].iter)
        for parent in function.module.parents_of(call)
    )


def _in_both_modes(context: Context, function: FunctionInfo, call: ast.Call, mode: ast.expr) -> LintFinding:
    text = shown(mode)
    message = (
        f"`{shown(call.func)}` runs with autograd on where `{text}` does not hold, too: its activations are saved for "
        "a backward pass that never comes, and held by its output. Run it under "
        f"`with torch.set_grad_enabled({text}):`."
    )
    return context.finding(function, call, "MP201", message, "no_grad", Confidence.MEDIUM)

"""Settings and calls that cost memory or time by themselves: MP207, MP208, MP312."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import is_constant, is_name, keyword, path_of
from memprof.lint.program import FunctionInfo
from memprof.lint.values import Kind

_DEPTH = 3
"""How many callers are gone up."""


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    yield from _zeroed(context)
    yield from _filled_by_hand(context)
    yield from _anomaly_mode(context)
    yield from _emptied_cache(context)


def _zeroed(context: Context) -> Iterator[LintFinding]:
    for function in context.program.functions:
        for call in function.calls if not context.is_test(function) else ():
            if not isinstance(call.func, ast.Attribute) or call.func.attr != "zero_grad":
                continue
            kept = keyword(call, "set_to_none") or (call.args[0] if len(call.args) == 1 else None)
            if not is_constant(kept, False) or _needs_zeros(function):
                continue
            message = (
                "`set_to_none=False` fills gradients with zeros instead of freeing them: they take as much as the "
                "parameters through the next forward pass and any evaluation. Leave the argument out."
            )
            yield context.finding(function, call, "MP207", message, "zero_grad")


def _filled_by_hand(context: Context) -> Iterator[LintFinding]:
    """`for p in net.parameters(): p.grad.zero_()`."""
    for function in context.program.functions:
        for call in function.calls if not context.is_test(function) else ():
            holder = call.func.value if isinstance(call.func, ast.Attribute) and call.func.attr == "zero_" else None
            if isinstance(holder, ast.Attribute) and holder.attr == "data":
                holder = holder.value
            if not isinstance(holder, ast.Attribute) or holder.attr != "grad" or _needs_zeros(function):
                continue
            loops = function.module.loops_of(call)
            if not loops or not isinstance(loops[0], ast.For) or not is_name(holder.value, path_of(loops[0].target)):
                continue
            if context.value(loops[0].target).kind is not Kind.PARAMETER:
                continue
            message = (
                f"`{shown(call.func)}()` fills gradients with zeros instead of freeing them: they take as much as the "
                f"parameters through the next forward pass and any evaluation. Set `{shown(holder)} = None`."
            )
            yield context.finding(function, call, "MP207", message, "zero_grad", Confidence.MEDIUM)


def _needs_zeros(function: FunctionInfo) -> bool:
    """CUDA graphs need gradients that stay where they are, and `p.grad += g` one to add to."""
    for item in ast.walk(function.module.tree):
        if isinstance(item, ast.Attribute) and item.attr in ("CUDAGraph", "make_graphed_callables"):
            return True
        if isinstance(item, ast.AugAssign) and isinstance(item.target, ast.Attribute) and item.target.attr == "grad":
            return True
    return False


def _anomaly_mode(context: Context) -> Iterator[LintFinding]:
    message = (
        "Anomaly mode is on for good: each node of the graph keeps the traceback of its forward, and every backward is "
        "checked for NaN. Turn it on while debugging only."
    )
    for function, call in context.calls("torch.autograd.set_detect_anomaly", "torch.autograd.detect_anomaly"):
        if context.is_test(function) or is_conditional(function, call) or not _trains(context, function, call):
            continue
        mode = call.args[0] if call.args else keyword(call, "mode")
        if function.module.qualified(call.func).endswith("set_detect_anomaly"):
            if not is_constant(mode, True):
                continue
            if not isinstance(function.module.parents.get(call), (ast.Expr, ast.withitem)):
                continue
        elif not isinstance(function.module.parents.get(call), ast.withitem):
            continue
        yield context.finding(function, call, "MP208", message, "anomaly_off", Confidence.MEDIUM)


def _trains(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    """Whether a training loop runs in that mode: one in the file, or, in a `with`, one inside or around it."""
    holder = function.module.parents.get(call)
    if not isinstance(holder, ast.withitem):
        return any(
            context.flow.iteration_loop(other, loop.body[0]) is not None
            for other in function.module.every_function
            for loop in other.loops
        )
    if context.flow.iteration_loop(function, call) is not None:
        return True
    inner = function.module.parents.get(holder)
    return isinstance(inner, (ast.With, ast.AsyncWith)) and context.flow.backward_in(function, inner)


def is_conditional(function: FunctionInfo, node: ast.AST) -> bool:
    """Whether a node runs only sometimes: under a condition, or when something failed."""
    below = node
    for parent in function.module.parents_of(node):
        if isinstance(parent, ast.If) and ast.unparse(parent.test) != "__name__ == '__main__'":
            return True
        if isinstance(parent, (ast.ExceptHandler, ast.IfExp, ast.Match)):
            return True
        if isinstance(parent, ast.Try) and below in parent.orelse:
            return True
        below = parent
    return False


def _emptied_cache(context: Context) -> Iterator[LintFinding]:
    for function, call in context.calls("torch.cuda.empty_cache"):
        loops = function.module.loops_of(call)
        around = context.flow.iteration_loop(function, call)
        if around is not None:
            each = loops[0] is around[0] and context.flow.is_innermost(around[0])
        else:
            each = not loops and called_in_iterations(context, function)
        if not each or is_conditional(function, call):
            continue
        message = (
            "`torch.cuda.empty_cache()` runs in every iteration: it frees no tensor, and the allocator must ask the "
            "driver for the same memory again and wait for it. Remove it."
        )
        yield context.finding(function, call, "MP312", message, "del")


def called_in_iterations(context: Context, function: FunctionInfo, depth: int = 0) -> bool:
    """Whether a function is called in every turn of an innermost training loop, directly or through others."""
    if any(context.flow.iteration_loop(function, loop.body[0]) is not None for loop in function.loops):
        return False  # it runs after a loop of its own
    for site in function.sites:
        if site.caller is function or is_conditional(site.caller, site.call):
            continue
        around = context.flow.iteration_loop(site.caller, site.call)
        if around is not None:
            if around[1] == "training" and context.flow.is_innermost(around[0]):
                return True
        elif depth < _DEPTH and called_in_iterations(context, site.caller, depth + 1):
            return True
    return False

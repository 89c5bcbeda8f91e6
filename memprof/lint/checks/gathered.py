"""What comprehensions, `list()` and `sum()` gather of iterations that run inside them: MP101, MP102, MP205."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.checks.joined import JOINING, is_reduced_later
from memprof.lint.context import Context, shown, sure
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside
from memprof.lint.program import FunctionInfo
from memprof.lint.values import Kind, Value

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_COLLECTING = frozenset("list tuple dict set sorted".split())


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for function in context.program.functions:
        if context.is_test(function):
            continue
        for node in _runs_of_iterations(context, function):
            value = context.value(node)
            element = value.element if value.kind is Kind.CONTAINER else None
            if element is None or not element.has_graph or _is_differentiated(context, function, node):
                continue
            finding = _finding(context, function, node, element)
            if finding is not None:
                yield finding
        yield from _joined(context, function)


def _joined(context: Context, function: FunctionInfo) -> Iterator[LintFinding]:
    """`torch.cat([net(x) for x, _ in loader])`: the outputs of a whole data set, on the device."""
    for call in function.calls:
        node = call.args[0] if call.args and function.module.qualified(call.func) in JOINING else None
        if not isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            continue
        element = context.value(node).element
        if element is None or element.kind is not Kind.TENSOR or element.host or not element.activation:
            continue
        if element.guessed or not context.flow.gives_batches(node.generators[0].iter):
            continue
        message = (
            f"`{shown(call.func)}` gathers `{shown(node.elt, 40)}` of the whole data set on the device, and copies it "
            "once more. Reduce each batch as it comes, or take `.cpu()` of it."
        )
        confidence = Confidence.MEDIUM if is_reduced_later(function, call) else Confidence.LOW
        yield context.finding(function, call, "MP205", message, "move_to_cpu", confidence)


def _runs_of_iterations(context: Context, function: FunctionInfo) -> Iterator[ast.expr]:
    """Comprehensions that train in each turn, and calls of generators that do."""
    for binding in function.bindings:
        node = function.module.parents.get(binding)
        if isinstance(node, _COMPREHENSIONS) and binding is node.generators[0]:
            if context.flow.backward_in(function, node.value if isinstance(node, ast.DictComp) else node.elt):
                yield node
    for call in function.calls:
        if any(callee in context.flow.trains and _hands_out(context, callee) for callee in context.flow.callees(call)):
            yield call


def _hands_out(context: Context, function: FunctionInfo) -> bool:
    """Whether a generator yields in each of its training iterations."""
    return any(
        context.flow.iteration_loop(function, item) is not None
        for part in function.body
        for item in inside(part)
        if isinstance(item, ast.Yield)
    )


def _is_differentiated(context: Context, function: FunctionInfo, node: ast.expr) -> bool:
    statement = function.module.statement_of(node)
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(context.flow.reaches_backward(function, target) for target in targets)


def _finding(context: Context, function: FunctionInfo, node: ast.expr, element: Value) -> LintFinding | None:
    user = function.module.parents.get(node)
    name = function.module.qualified(user.func) if isinstance(user, ast.Call) and node in user.args else ""
    lazy = isinstance(node, (ast.GeneratorExp, ast.Call))
    scalar = all(item.scalar for item in element.tensors if item.kind is Kind.GRAPH)
    how = "`.item()` of a loss, or `.detach()`," if scalar else "`.detach()` of it, or `.detach().cpu()`,"
    remedy = "item" if scalar else "detach"
    if name == "sum" and isinstance(user, ast.Call):
        message = (
            f"`{shown(user, 40)}` sums tensors with their autograd graph: the graph of every iteration stays until the "
            f"sum is gone. Add {how} instead."
        )
        return context.finding(function, user, "MP101", message, remedy, sure(element))
    if lazy and name not in _COLLECTING:
        return None
    message = (
        f"`{shown(node, 40)}` keeps what every iteration gives together with its autograd graph. Store {how} instead."
    )
    return context.finding(function, node, "MP102", message, remedy, sure(element))

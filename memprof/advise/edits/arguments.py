"""Arguments of calls taken out: `retain_graph=True`, `set_to_none=False`, and the like."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_OPTIMIZERS = frozenset("Adadelta Adagrad Adam AdamW Adamax ASGD NAdam RAdam RMSprop Rprop SGD".split())
"""Those of `torch.optim` that take `foreach`."""


def drop_retain_graph(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`loss.backward(retain_graph=True)` becomes `loss.backward()`."""
    return _dropped(source, problem, ("backward", "grad"), "retain_graph")


def drop_create_graph(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`loss.backward(create_graph=True)` becomes `loss.backward()`; the same for `torch.autograd.grad`."""
    return _dropped(source, problem, ("backward", "grad"), "create_graph")


def free_gradients(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`zero_grad(set_to_none=False)` becomes `zero_grad(set_to_none=True)`."""
    found = _arguments(source, problem, ("zero_grad",), "set_to_none")
    return tuple(source.replaced(argument.value, "True") for _, argument in found)


def load_to_host(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`torch.load(path)` becomes `torch.load(path, map_location="cpu")`."""
    for call in source.nodes(cst.Call, source.statement(problem.line)):
        if source.code(call.func).rpartition(".")[2] == "load" and call.args:
            known = [item for item in call.args if item.keyword is not None and item.keyword.value == "map_location"]
            if known:
                return (source.replaced(known[0].value, '"cpu"'),)
            end = source.span(call.args[-1].value)[1]
            return (Change(end, end, ', map_location="cpu"'),)
    raise CannotEdit("nothing is loaded in that line")


def step_one_by_one(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`foreach=False` for the optimizer made in the line, or for the only one in the file."""
    made = [call for call in source.nodes(cst.Call) if source.code(call.func).rpartition(".")[2] in _OPTIMIZERS]
    here = [call for call in made if source.lines(call)[0] <= problem.line <= source.lines(call)[1]]
    if len(here or made) != 1:
        raise CannotEdit("it is not clear which optimizer is meant")
    call = (here or made)[0]
    known = [item for item in call.args if item.keyword is not None and item.keyword.value == "foreach"]
    if known:
        return (source.replaced(known[0].value, "False"),)
    if not call.args:
        raise CannotEdit("the optimizer is made without arguments")
    end = source.span(call.args[-1].value)[1]
    return (Change(end, end, ", foreach=False"),)


def zero_after_step(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`optimizer.zero_grad()` behind `optimizer.step()`, the last one before the line or the only one."""
    steps = [
        call
        for call in source.nodes(cst.Call)
        if isinstance(call.func, cst.Attribute)
        and call.func.attr.value == "step"
        and f"`{source.code(call.func.value)}.zero_grad()`" in problem.text
    ]
    before = [call for call in steps if source.lines(call)[0] <= problem.line]
    if not before and len(steps) != 1:
        raise CannotEdit("it is not clear after which step gradients are to be freed")
    step = (before or steps)[-1]
    statement = source.statement(source.lines(step)[0])
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        raise CannotEdit("the step is not a statement of its own")
    assert isinstance(step.func, cst.Attribute)
    return (source.after(statement, f"{source.code(step.func.value)}.zero_grad()"),)


def without_argument(source: SourceFile, call: cst.Call, argument: cst.Arg) -> Change:
    """Take an argument and its comma out of a call."""
    index = list(call.args).index(argument)
    start, end = source.span(argument)
    if index:
        start = source.span(call.args[index - 1].value)[1]
        end = source.span(argument.value)[1]
    elif len(call.args) > 1:
        end = source.span(call.args[1])[0]
    else:
        end = source.span(argument.value)[1]
        if isinstance(argument.comma, cst.Comma):
            end += len(source.code(argument.comma).rstrip().encode("utf-8"))
    return Change(start, end, "")


def _dropped(source: SourceFile, problem: Problem, methods: tuple[str, ...], keyword: str) -> tuple[Change, ...]:
    return tuple(
        without_argument(source, call, argument) for call, argument in _arguments(source, problem, methods, keyword)
    )


def _arguments(
    source: SourceFile, problem: Problem, methods: tuple[str, ...], keyword: str
) -> list[tuple[cst.Call, cst.Arg]]:
    """The calls of methods with a keyword, on the line of the problem; else in its function."""
    statement = source.statement(problem.line)
    for root in (statement, source.scope(statement)):
        found = [
            (call, argument)
            for call in source.nodes(cst.Call, root)
            if isinstance(call.func, cst.Attribute) and call.func.attr.value in methods
            for argument in call.args
            if argument.keyword is not None and argument.keyword.value == keyword
        ]
        if found:
            return found
    raise CannotEdit(f"no call of `{methods[0]}` there has `{keyword}`")

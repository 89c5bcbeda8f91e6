"""A recurrent state cut off from its history at the end of each iteration."""

from __future__ import annotations

import re

import libcst as cst

from memprof.advise.edits.arguments import without_argument
from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def detach_tensor(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`hidden = hidden.detach()`, and no `retain_graph=True` any more."""
    return _cut(source, problem, "{0} = {0}.detach()")


def detach_tuple(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`hidden = tuple(state.detach() for state in hidden)`, and no `retain_graph=True` any more."""
    return _cut(source, problem, "{0} = tuple(state.detach() for state in {0})")


def detach_state(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """The one of both that fits what was seen to be carried."""
    return (detach_tuple if problem.tuple_held else detach_tensor)(source, problem)


def detach_other(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """The other one."""
    return (detach_tensor if problem.tuple_held else detach_tuple)(source, problem)


def detach_at_once(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`hidden = hidden.detach()` right after the call, where several states take turns under one name."""
    statement = source.statement(problem.line)
    return (source.after(statement, "{0} = {0}.detach()".format(_state(source, statement, problem))),)


def _cut(source: SourceFile, problem: Problem, text: str) -> tuple[Change, ...]:
    statement = source.statement(problem.line)
    line = text.format(_state(source, statement, problem))
    retained = tuple(
        without_argument(source, call, argument)
        for call in source.nodes(cst.Call, source.scope(statement))
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "backward"
        for argument in call.args
        if argument.keyword is not None and argument.keyword.value == "retain_graph"
    )
    return (_placed(source, statement, line), *retained)


def _state(source: SourceFile, statement: cst.CSTNode, problem: Problem) -> str:
    """Name of the state: what the statement both passes on and assigns, else what was seen to hold it."""
    assigned: list[str] = []
    passed: set[str] = set()
    for assign in source.nodes(cst.Assign, statement):
        for target in (item.target for item in assign.targets):
            if isinstance(target, (cst.Tuple, cst.List)):
                assigned += [source.code(element.value) for element in target.elements]
            else:
                assigned.append(source.code(target))
        for call in source.nodes(cst.Call, assign.value):
            passed |= {source.code(argument.value) for argument in call.args}
    both = [name for name in assigned if name in passed]
    if len(both) == 1:
        return both[0]
    held = re.sub(r"(\[\d+\])+$", "", problem.holder)
    if both and held in both:
        return held
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", held):
        uses = {source.code(node) for node in source.nodes((cst.Name, cst.Attribute), source.scope(statement))}
        if held in uses:
            return held
        if f"self.{held}" in uses:
            return f"self.{held}"
    raise CannotEdit("it is not clear which name carries the state")


def _placed(source: SourceFile, statement: cst.CSTNode, line: str) -> Change:
    """At the end of the loop that a backward ends, so that its chunk is whole; without one, after the call."""
    for loop in source.loops(statement):
        backward = any(
            isinstance(call.func, cst.Attribute) and call.func.attr.value == "backward"
            for call in source.nodes(cst.Call, loop)
        )
        if backward:
            return source.after(source.block(loop)[-1], line)
    return source.after(statement, line)

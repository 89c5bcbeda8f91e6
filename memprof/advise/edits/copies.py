"""Copies that hold what their original holds: the original in their place."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_COPYING_FUNCTIONS = frozenset("clone deepcopy copy".split())


def use_original(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`x.clone()` becomes `x`, `copy.deepcopy(net)` becomes `net`, where the line makes one copy."""
    found = [
        (call, original)
        for call in source.nodes(cst.Call, source.statement(problem.line))
        if (original := _original(call)) is not None
    ]
    if len(found) != 1:
        raise CannotEdit("the line does not make one copy by `clone` or `deepcopy`")
    ((call, original),) = found
    return (source.replaced(call, source.code(original)),)


def _original(call: cst.Call) -> cst.BaseExpression | None:
    """What a call copies; None for one that copies nothing, or that says how."""
    func, given = call.func, call.args
    name = func.attr.value if isinstance(func, cst.Attribute) else func.value if isinstance(func, cst.Name) else ""
    if name == "clone" and isinstance(func, cst.Attribute) and not given:
        return func.value
    if name in _COPYING_FUNCTIONS and len(given) == 1 and not given[0].star and given[0].keyword is None:
        return given[0].value
    return None

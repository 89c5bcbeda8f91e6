"""The discriminator's input cut off from the generator that made it."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def detach_input(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`discriminator(fake)` becomes `discriminator(fake.detach())`, in the first call that takes what was generated."""
    statement = source.statement(problem.line)
    scope = source.scope(statement)
    start, end = source.span(statement)
    inputs = [argument for call in source.nodes(cst.Call, statement) for argument in call.args]
    known = [argument for argument in inputs if source.code(argument.value) in problem.made]
    if problem.made_line != problem.line and len(known) == 1:
        return source.suffixed(known[0].value, ".detach()")
    made = _names_bound(statement)
    if made:
        calls = [call for call in source.nodes(cst.Call, scope) if source.span(call)[0] >= end]
        found = [argument for call in calls for argument in call.args if source.code(argument.value) in made]
        if found:
            return source.suffixed(found[0].value, ".detach()")
    computed = [item for item in inputs if _is_computed(source, scope, item.value, before=start)]
    bound = [item for item in computed if isinstance(item.value, cst.Name)] or computed
    if len(bound) != 1:
        raise CannotEdit("it is not clear which argument comes from the generator")
    return source.suffixed(bound[0].value, ".detach()")


def _names_bound(statement: cst.CSTNode) -> set[str]:
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    if isinstance(small, cst.Assign) and isinstance(small.value, cst.Call):
        return {item.target.value for item in small.targets if isinstance(item.target, cst.Name)}
    return set()


def _is_computed(source: SourceFile, scope: cst.CSTNode, value: cst.BaseExpression, *, before: int) -> bool:
    """Whether a value is what a module returned, as far as that can be seen: `netG(z)`, or a name bound to it."""
    if isinstance(value, cst.Call):
        return isinstance(value.func, cst.Name) or source.code(value.func).startswith("self.")
    if not isinstance(value, cst.Name):
        return False
    return any(
        isinstance(assign.value, cst.Call)
        and _is_computed(source, scope, assign.value, before=before)
        and any(source.code(item.target) == value.value for item in assign.targets)
        for assign in source.nodes(cst.Assign, scope)
        if source.span(assign)[0] < before
    )

"""State of an optimizer that belongs to parameters it no longer has."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def forget_replaced(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """Before `optimizer.param_groups[0]["params"] = [new]` the state of the old parameters is dropped."""
    statement = source.statement(problem.line)
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1 else None
    target = small.targets[0].target if isinstance(small, cst.Assign) and len(small.targets) == 1 else None
    if not isinstance(target, cst.Subscript):
        raise CannotEdit("the line does not replace the parameters of a group")
    holder: cst.BaseExpression = target
    while isinstance(holder, cst.Subscript):
        holder = holder.value
    if not isinstance(holder, cst.Attribute) or holder.attr.value != "param_groups":
        raise CannotEdit("the line does not replace the parameters of a group")
    if not source.code(target).replace("'", '"').endswith('["params"]'):
        raise CannotEdit("the line replaces a whole group")
    optimizer = source.code(holder.value)
    state = f"{optimizer}.state"
    if any(source.code(node) == state for node in source.nodes(cst.Attribute, source.scope(statement))):
        raise CannotEdit(f"the function sees to `{state}` itself")
    names = {name.value for name in source.nodes(cst.Name, source.scope(statement))}
    name = next(word for word in ("parameter", "old_parameter", "replaced_parameter") if word not in names)
    return (source.before(statement, f"for {name} in {source.code(target)}:", f"    {state}.pop({name}, None)"),)

"""Exceptions that are kept, without the frames they passed through."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def drop_traceback(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`failures.append(error)` becomes `failures.append(error.with_traceback(None))`; type and message stay."""
    statement = source.statement(problem.line)
    handler = next((above for above in source.ancestors(statement) if isinstance(above, cst.ExceptHandler)), None)
    name = None if handler is None or handler.name is None else source.code(handler.name.name)
    if handler is None or name is None:
        raise CannotEdit("the line is in no `except ... as name`")
    if next(source.nodes(cst.Raise, handler), None) is not None:
        raise CannotEdit("the handler raises again, and would lose the traceback")
    stored = [
        used
        for used in source.nodes(cst.Name, statement)
        if used.value == name and not isinstance(source.parent(used), (cst.Attribute, cst.FormattedStringExpression))
    ]
    if len(stored) != 1:
        raise CannotEdit(f"it is not clear where `{name}` is stored")
    return source.suffixed(stored[0], ".with_traceback(None)")

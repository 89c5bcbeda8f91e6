"""Names deleted at the end of a loop's body, before the next forward."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import CannotEdit, Change, SourceFile


def delete_at_end_of_loop(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`del out, loss` behind the last statement of the loop that assigns them.

    Only names that every turn of the loop assigns, and that nobody reads before the loop assigns them or after it.
    """
    statement = source.statement(problem.line)
    loops = source.loops(statement)
    if not loops:
        raise CannotEdit("the line is in no loop of its function")
    loop = loops[0]
    body = source.block(loop)
    if next(source.nodes(cst.Continue, loop), None) is not None:
        raise CannotEdit("`continue` may leave a turn of the loop before its end")
    names = [name for name in (problem.names or tuple(sorted(problem.made))) if name.isidentifier()]
    always = {name for part in body for name in _assigned(source, part, always=True)}
    free = [name for name in names if name in always and not _read_elsewhere(source, loop, name)]
    if not free:
        raise CannotEdit("the names are read outside the loop, or not every turn of it assigns them")
    if isinstance(body[-1], cst.SimpleStatementLine) and any(
        isinstance(small, (cst.Return, cst.Raise, cst.Break)) for small in body[-1].body
    ):
        raise CannotEdit("the loop's body ends in a jump")
    return (source.after(body[-1], f"del {', '.join(free)}"),)


def _assigned(source: SourceFile, statement: cst.CSTNode, *, always: bool) -> Iterator[str]:
    """Names a statement binds; with `always`, those that it binds on every way through it."""
    if isinstance(statement, cst.SimpleStatementLine):
        for small in statement.body:
            targets: list[cst.CSTNode] = []
            if isinstance(small, cst.Assign):
                targets = [item.target for item in small.targets]
            elif isinstance(small, cst.AnnAssign) and small.value is not None:
                targets = [small.target]
            for target in targets:
                yield from _bound(target)
    elif isinstance(statement, cst.With):
        for part in source.block(statement):
            yield from _assigned(source, part, always=always)


def _bound(target: cst.CSTNode) -> Iterator[str]:
    if isinstance(target, cst.Name):
        yield target.value
    elif isinstance(target, (cst.Tuple, cst.List)):
        for element in target.elements:
            yield from _bound(element.value)


def _read_elsewhere(source: SourceFile, loop: cst.For | cst.While, name: str) -> bool:
    """Whether a name is used outside a loop in its function, in nested functions, or in the loop before it is bound."""
    scope = source.scope(loop)
    start, end = source.span(loop)
    bound_at: int | None = None
    for part in source.block(loop):
        if name in set(_assigned(source, part, always=True)):
            bound_at = source.span(part)[0]
            break
    for used in source.nodes(cst.Name, scope):
        if used.value != name or (
            isinstance(source.parent(used), (cst.Attribute, cst.Arg, cst.Param)) and _is_label(source, used)
        ):
            continue
        at, _ = source.span(used)
        if at < start or at >= end:
            if not _is_rebound_first(source, scope, name, at):
                return True
        elif bound_at is None or at < bound_at:
            return True
    return any(
        name in [item.value for statement in source.nodes(kind, scope) for item in source.nodes(cst.Name, statement)]
        for kind in (cst.Global, cst.Nonlocal)
    )


def _is_label(source: SourceFile, used: cst.Name) -> bool:
    """Whether a name is an attribute, a keyword or a parameter of that name, not the variable."""
    above = source.parent(used)
    if isinstance(above, cst.Attribute):
        return above.attr is used
    if isinstance(above, cst.Arg):
        return above.keyword is used
    return isinstance(above, cst.Param)


def _is_rebound_first(source: SourceFile, scope: cst.CSTNode, name: str, at: int) -> bool:
    """Whether the use at a place is an assignment, or belongs to another loop that assigns the name first."""
    for loop in source.nodes(cst.For, scope):
        start, end = source.span(loop)
        if not start <= at < end:
            continue
        for part in source.block(loop):
            if name in set(_assigned(source, part, always=True)):
                return source.span(part)[0] <= at
    return False

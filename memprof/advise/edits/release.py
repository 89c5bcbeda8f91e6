"""Names deleted at the end of a loop's body, before the next forward."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def delete_at_end_of_loop(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`del out, loss` behind the last statement of the loop that assigns them.

    Only names that every turn of the loop assigns, and that nobody reads before the loop assigns them or after it.
    """
    return _delete(source, problem, frozenset(problem.names) or problem.made)


def delete_all_at_end_of_loop(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`del` for whatever the loop computes with calls and nobody needs after a turn: views and results keep memory."""
    return _delete(source, problem, None)


def delete_after_last_use(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`del checkpoint` behind the last statement that reads it, in the block that assigns it.

    From a `with` block it may be read outside as well: what stands there has always run.
    """
    statement = source.statement(problem.line)
    names = problem.names or tuple(sorted(problem.made))
    changes = []
    for name in names:
        if not name.isidentifier():
            continue
        uses = [
            used
            for used in source.nodes(cst.Name, source.scope(statement))
            if used.value == name and not _is_label(source, used)
        ]
        last = _last_statement(source, statement, uses)
        if last is None:
            raise CannotEdit(f"`{name}` is used outside the block that assigns it")
        if isinstance(last, cst.SimpleStatementLine) and any(
            isinstance(small, (cst.Return, cst.Raise, cst.Del)) for small in last.body
        ):
            raise CannotEdit(f"nothing comes after the last use of `{name}`")
        changes.append(source.after(last, f"del {name}"))
    if not changes:
        raise CannotEdit("the remedy names no variable")
    return tuple(changes)


def _last_statement(source: SourceFile, statement: cst.CSTNode, uses: list[cst.Name]) -> cst.CSTNode | None:
    """The last statement with one of the uses, in the innermost block around a statement that holds all of them."""
    block = source.parent(statement)
    while block is not None and uses:
        holders = [_statement_in(source, used, block) for used in uses]
        if all(holder is not None for holder in holders):
            return holders[-1]
        around = source.parent(block)
        block = source.parent(around) if isinstance(around, cst.With) else None
    return None


def _statement_in(source: SourceFile, node: cst.CSTNode, block: cst.CSTNode) -> cst.CSTNode | None:
    """The statement of a block that a node is in; None for a node outside the block."""
    inside: cst.CSTNode = node
    for above in source.ancestors(node):
        if above is block:
            return inside
        inside = above
    return None


def _delete(source: SourceFile, problem: Problem, wanted: frozenset[str] | None) -> tuple[Change, ...]:
    statement = source.statement(problem.line)
    loops = source.loops(statement)
    if not loops:
        raise CannotEdit("the line is in no loop of its function")
    loop = loops[0]
    body = source.block(loop)
    if next(source.nodes(cst.Continue, loop), None) is not None:
        raise CannotEdit("`continue` may leave a turn of the loop before its end")
    always = dict.fromkeys(target.value for part in body for target in _bindings(source, part))
    free = [name for name in always if (wanted is None or name in wanted) and not _read_elsewhere(source, loop, name)]
    if not free:
        raise CannotEdit("the names are read outside the loop, or not every turn of it assigns them")
    if isinstance(body[-1], cst.SimpleStatementLine) and any(
        isinstance(small, (cst.Return, cst.Raise, cst.Break)) for small in body[-1].body
    ):
        raise CannotEdit("the loop's body ends in a jump")
    return (source.after(body[-1], f"del {', '.join(free)}"),)


def _bindings(source: SourceFile, statement: cst.CSTNode) -> Iterator[cst.Name]:
    """The targets of assignments that are made on every way through a statement."""
    if isinstance(statement, cst.SimpleStatementLine):
        for small in statement.body:
            targets: list[cst.CSTNode] = []
            if isinstance(small, cst.Assign):
                targets = [item.target for item in small.targets]
            elif isinstance(small, cst.AnnAssign) and small.value is not None:
                targets = [small.target]
            for target in targets:
                yield from _names(target)
    elif isinstance(statement, cst.With):
        for part in source.block(statement):
            yield from _bindings(source, part)


def _names(target: cst.CSTNode) -> Iterator[cst.Name]:
    if isinstance(target, cst.Name):
        yield target
    elif isinstance(target, (cst.Tuple, cst.List)):
        for element in target.elements:
            yield from _names(element.value)


def _bound_in(source: SourceFile, loop: cst.For | cst.While, name: str) -> cst.Name | None:
    """The first place in a loop's body that binds a name in every turn."""
    found = (target for part in source.block(loop) for target in _bindings(source, part))
    return next((target for target in found if target.value == name), None)


def _read_elsewhere(source: SourceFile, loop: cst.For | cst.While, name: str) -> bool:
    """Whether a name is used outside a loop in its function, in nested functions, or in the loop before it is bound."""
    scope = source.scope(loop)
    start, end = source.span(loop)
    target = _bound_in(source, loop, name)
    statement = (
        None
        if target is None
        else next(above for above in source.ancestors(target) if isinstance(above, cst.SimpleStatementLine))
    )
    bound = (0, end) if statement is None else source.span(statement)
    for used in source.nodes(cst.Name, scope):
        if used.value != name or used is target or _is_label(source, used):
            continue
        at, _ = source.span(used)
        if at < start or at >= end:
            if not _is_rebound_first(source, scope, name, at):
                return True
        elif at < bound[1]:  # in the very statement that binds it, it is read before, too
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
    """Whether the use at a place belongs to another loop that assigns the name first."""
    for loop in source.nodes(cst.For, scope):
        start, end = source.span(loop)
        target = _bound_in(source, loop, name) if start <= at < end else None
        if target is not None:
            return source.span(target)[0] <= at
    return False

"""Outputs that are joined into one tensor, moved to the host one by one as they come."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_JOINING = frozenset("cat concat concatenate stack hstack vstack".split())
_STORING = frozenset("append extend".split())
_LITERALS = (cst.List, cst.Tuple)


def store_parts_on_host(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`.cpu()` where the list that the statement joins is added to."""
    statement = source.statement(problem.line)
    return _on_host(source, problem, statement, list(_joins(source, statement)))


def store_all_parts_on_host(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """The same for every list that is joined beside it: outputs and labels are compared later."""
    statement = source.statement(problem.line)
    calls = list(_joins(source, source.scope(statement)))
    if len({_holder(source, call) for call in calls}) < 2:
        raise CannotEdit("nothing else is joined beside it")
    return _on_host(source, problem, statement, calls)


def _joins(source: SourceFile, node: cst.CSTNode) -> Iterator[cst.Call]:
    """Calls such as `torch.cat(outputs)` below a node whose argument is a name or an attribute."""
    for call in source.nodes(cst.Call, node):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value in _JOINING and call.args:
            if isinstance(call.args[0].value, (cst.Name, cst.Attribute)):
                yield call


def _holder(source: SourceFile, call: cst.Call) -> str:
    return source.code(call.args[0].value)


def _on_host(source: SourceFile, problem: Problem, statement: cst.CSTNode, calls: list[cst.Call]) -> tuple[Change, ...]:
    if problem.device == "cpu":
        raise CannotEdit("the tensors are on the host already; --simulate GPU tells what it would do on a GPU")
    if not calls:
        raise CannotEdit("the line joins no list that has a name")
    changes: list[Change] = []
    for holder in dict.fromkeys(_holder(source, call) for call in calls):
        scope: cst.CSTNode = source.scope(statement)
        if "." in holder:  # an attribute is filled by other methods
            scope = next((above for above in source.ancestors(statement) if isinstance(above, cst.ClassDef)), scope)
        values = list(_stored(source, scope, holder))
        if not values:
            raise CannotEdit(f"it is not clear where `{holder}` is added to")
        left = [value for value in values if not source.code(value).endswith((".cpu()", ".item()", ".numpy()"))]
        changes += [change for value in left for change in source.suffixed(value, ".cpu()")]
    return tuple(changes)


def _stored(source: SourceFile, scope: cst.CSTNode, holder: str) -> Iterator[cst.BaseExpression]:
    """What is put into a list, by `append`, `extend` or `+=` of a literal."""
    for small in source.nodes((cst.Expr, cst.AugAssign), scope):
        if isinstance(small, cst.AugAssign):
            if source.code(small.target) == holder:
                yield from _elements(source, small.value)
            continue
        call = small.value if isinstance(small, cst.Expr) else None
        if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute) or len(call.args) != 1:
            continue
        if call.func.attr.value in _STORING and source.code(call.func.value) == holder:
            value = call.args[0].value
            if call.func.attr.value == "append":
                yield value
            else:
                yield from _elements(source, value)


def _elements(source: SourceFile, value: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    if not isinstance(value, _LITERALS):
        raise CannotEdit(f"`{source.code(value)}` may hold any number of tensors")
    yield from (item.value for item in value.elements)

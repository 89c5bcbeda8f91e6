"""A cache taken off a function whose arguments never come back, or out of its body."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_CACHES = frozenset({"lru_cache", "cache"})


def drop_dictionary(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`cache[x] = f(x)` under `if x not in cache:`, with `return cache[x]` behind, becomes `return f(x)`."""
    statement = source.statement(problem.line)
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1 else None
    asked = next(source.ancestors(statement), None)
    condition = source.parent(asked) if asked is not None else None
    if not isinstance(small, cst.Assign) or len(small.targets) != 1 or not isinstance(condition, cst.If):
        raise CannotEdit("the line does not fill a cache under a condition")
    kept = small.targets[0].target
    if not isinstance(kept, cst.Subscript) or len(kept.slice) != 1 or condition.orelse is not None:
        raise CannotEdit("the line does not fill a cache under a condition")
    key, cache = source.code(kept.slice[0]), source.code(kept.value)
    block = source.parent(condition)
    following = list(block.children) if block is not None else []
    after = following[following.index(condition) + 1] if condition is not following[-1] else None
    if source.code(condition.test) != f"{key} not in {cache}" or after is None:
        raise CannotEdit("the line does not fill a cache under a condition")
    if source.code(after).strip() != f"return {source.code(kept)}":
        raise CannotEdit("what was cached is not returned right after")
    return (source.replaced(small, f"return {source.code(small.value)}"),)


def drop_cache(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`@lru_cache` goes from the function on the line."""
    for function in source.nodes(cst.FunctionDef):
        lines = [source.lines(item) for item in function.decorators]
        first = min([start for start, _ in lines], default=source.lines(function)[0])
        if not first <= problem.line <= source.lines(function)[0]:
            continue
        for decorator, where in zip(function.decorators, lines, strict=True):
            named = decorator.decorator.func if isinstance(decorator.decorator, cst.Call) else decorator.decorator
            if source.code(named).rpartition(".")[2] in _CACHES:
                return (Change(*source.line_span(*where), ""),)
    raise CannotEdit("no function with a cache is defined there")

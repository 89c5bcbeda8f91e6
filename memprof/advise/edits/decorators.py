"""A cache taken off a function whose arguments never come back."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_CACHES = frozenset({"lru_cache", "cache"})


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

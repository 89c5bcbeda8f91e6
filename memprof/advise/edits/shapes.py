"""The size of a linear layer set to what it is given."""

from __future__ import annotations

import re

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_WANTED = re.compile(r"`nn\.Linear\((\d+), \d+\)`")


def resize_linear(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`nn.Linear(320, 50)` becomes `nn.Linear(500, 50)`."""
    size = _WANTED.search(problem.text)
    if size is None:
        raise CannotEdit("the remedy asks for more than another size")
    calls = [
        call
        for call in source.nodes(cst.Call)
        if source.code(call.func).rpartition(".")[2] == "Linear" and source.lines(call)[0] == problem.line
    ]
    if len(calls) != 1 or not calls[0].args:
        raise CannotEdit("it is not clear which layer on the line is meant")
    named = [item for item in calls[0].args if item.keyword is not None and item.keyword.value == "in_features"]
    first = named[0] if named else calls[0].args[0]
    if first.star or (first.keyword is not None and not named):
        raise CannotEdit("the layer's size is not written there")
    return (source.replaced(first.value, size.group(1)),)

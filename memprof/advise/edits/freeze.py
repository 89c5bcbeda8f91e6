"""Modules whose parameters nobody trains, told so once."""

from __future__ import annotations

import re

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.no_grad import model_called
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_PARTS = re.compile(r"`requires_grad_\(False\)` on (.*?), once")
_NAME = re.compile(r"`([A-Za-z_][\w.]*)`")


def freeze(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`model.backbone.requires_grad_(False)` in front of the loop that calls the model."""
    said = _PARTS.search(problem.text)
    if said is None:
        raise CannotEdit("the remedy does not say which module to freeze")
    parts = _NAME.findall(said.group(1))
    if any(part.split(".")[-1].isdigit() or ".0" in part for part in parts):
        raise CannotEdit("a part of a container has no name to call")
    statement = source.statement(problem.line)
    called = model_called(source, statement)
    lines = [f"{called}.{part}.requires_grad_(False)" for part in parts] or [f"{called}.requires_grad_(False)"]
    place: cst.CSTNode = statement
    root = called.partition(".")[0]
    for loop in source.loops(statement):
        if any(source.code(item.target) == root for item in source.nodes(cst.AssignTarget, loop)):
            break  # the model is made in it
        place = loop
    return (source.before(place, *lines),)

"""The garbage collector called once in each turn of a loop."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def collect_each_turn(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`gc.collect()` at the end of the training loop: a stopgap that takes time, for cycles that are hard to undo."""
    around = source.loops(source.statement(problem.line))
    training = [loop for loop in source.nodes((cst.For, cst.While)) if _trains(source, loop)]
    inner = [loop for loop in training if not any(other is not loop for other in _inside(source, loop, training))]
    loops = around[:1] or inner
    if len(loops) != 1:
        raise CannotEdit("it is not clear which loop makes the cycles")
    last = source.block(loops[0])[-1]
    if isinstance(last, cst.SimpleStatementLine) and isinstance(last.body[0], (cst.Return, cst.Break, cst.Continue)):
        raise CannotEdit("the loop's body ends in a jump")
    return (*source.imported("gc"), source.after(last, "gc.collect()"))


def _trains(source: SourceFile, loop: cst.CSTNode) -> bool:
    return any(
        isinstance(call.func, cst.Attribute) and call.func.attr.value in ("backward", "step")
        for call in source.nodes(cst.Call, loop)
    )


def _inside(source: SourceFile, loop: cst.CSTNode, loops: Sequence[cst.CSTNode]) -> list[cst.CSTNode]:
    return [other for other in loops if any(above is loop for above in source.ancestors(other))]

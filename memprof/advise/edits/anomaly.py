"""Anomaly detection switched off."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def switch_off(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`set_detect_anomaly(True)` and `detect_anomaly()` become `set_detect_anomaly(False)`."""
    for call in source.nodes(cst.Call, source.statement(problem.line)):
        head, dot, name = source.code(call.func).rpartition(".")
        if name == "set_detect_anomaly" and call.args:
            return (source.replaced(call.args[0].value, "False"),)
        if name == "detect_anomaly":
            if head:
                return (source.replaced(call, f"{head}{dot}set_detect_anomaly(False)"),)
            torch, imports = source.torch_name()
            return (*imports, source.replaced(call, f"{torch}.autograd.set_detect_anomaly(False)"))
    raise CannotEdit("anomaly detection is not switched on in that line")

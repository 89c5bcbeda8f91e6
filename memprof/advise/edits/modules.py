"""Modules and parameters in a plain list or dictionary, put where `Module` finds them."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def register(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`self.layers = [...]` becomes `nn.ModuleList([...])`; or the like."""
    statement = source.statement(problem.line)
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) else None
    value = small.value if isinstance(small, (cst.Assign, cst.AnnAssign)) else None
    if not isinstance(value, (cst.List, cst.ListComp, cst.Dict, cst.DictComp)):
        raise CannotEdit("the line assigns no list or dictionary")
    text = source.code(value)
    kind = "Parameter" if "Parameter(" in text else "Module"
    shape = "List" if isinstance(value, (cst.List, cst.ListComp)) else "Dict"
    nn, imports = _nn(source)
    return (*imports, *source.wrapped(value, f"{nn}.{kind}{shape}(", ")"))


def _nn(source: SourceFile) -> tuple[str, tuple[Change, ...]]:
    """What `torch.nn` is called in the file."""
    for statement in source.nodes((cst.Import, cst.ImportFrom)):
        if isinstance(statement, cst.Import):
            for alias in statement.names:
                if source.code(alias.name) == "torch.nn" and alias.evaluated_alias:
                    return alias.evaluated_alias, ()
        elif isinstance(statement, cst.ImportFrom) and statement.module is not None:
            if source.code(statement.module) == "torch" and not isinstance(statement.names, cst.ImportStar):
                for alias in statement.names:
                    if source.code(alias.name) == "nn":
                        return alias.evaluated_alias or "nn", ()
    torch, imports = source.torch_name()
    return f"{torch}.nn", imports

"""Modules in a plain list or dictionary, put where `Module` finds them; layers that nothing uses, dropped."""

from __future__ import annotations

import re

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


def drop(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """The statement that builds a layer goes, where nothing in the file names the layer."""
    statement = source.statement(problem.line)
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1 else None
    target = small.targets[0].target if isinstance(small, cst.Assign) and len(small.targets) == 1 else None
    if not isinstance(small, cst.Assign) or not isinstance(target, cst.Attribute):
        raise CannotEdit("the line does not build one layer of a module and nothing else")
    if not isinstance(small.value, cst.Call):
        raise CannotEdit("the line takes the layer from elsewhere")
    name = target.attr.value
    for used in source.nodes(cst.Attribute):
        if used.attr.value == name and used is not target:
            raise CannotEdit(f"`{name}` is named elsewhere in the file")
    word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    texts = [source.code(text) for text in source.nodes(cst.SimpleString)]
    made_up = [source.code(text) for text in source.nodes(cst.FormattedString)]
    if any(word.search(text) for text in texts) or any(name in text for text in made_up):
        raise CannotEdit(f"a string of the file may name `{name}`")
    block = source.parent(statement)
    others = [item for item in (block.children if block is not None else ()) if isinstance(item, cst.BaseStatement)]
    if len(others) < 2:
        raise CannotEdit("its block would be empty")
    return (Change(*source.line_span(*source.lines(statement)), ""),)

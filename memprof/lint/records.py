"""What instances hold as they were passed: fields of data classes, and parameters that `__init__` stores."""

from __future__ import annotations

import ast

from memprof.lint.names import path_of
from memprof.lint.program import ClassInfo, FunctionInfo, Program


def is_record(program: Program, cls: ClassInfo) -> bool:
    """Whether instances are made of their fields: a data class, or a named tuple."""
    for item in program.bases(cls):
        called = (node.func if isinstance(node, ast.Call) else node for node in item.node.decorator_list)
        if any(item.module.qualified(node).rpartition(".")[2] in ("dataclass", "define") for node in called):
            return True
    return any(base.rpartition(".")[2] == "NamedTuple" for base in program.base_names(cls))


def record_fields(program: Program, cls: ClassInfo) -> list[str]:
    """Fields in the order in which they are passed, those of bases first."""
    found: dict[str, None] = {}
    for item in reversed(list(program.bases(cls))):
        for statement in item.node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                found[statement.target.id] = None
    return list(found)


def stored_parameters(start: FunctionInfo) -> dict[str, str]:
    """Attributes that `__init__` gives a parameter as it is, and which: `self.loss = loss`."""
    names = {item.arg for item in start.parameters}
    if not isinstance(start.node, ast.Module):
        names |= {item.arg for item in start.node.args.kwonlyargs}
    found: dict[str, str] = {}
    for statement in start.statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name) and statement.value.id in names:
            for target in statement.targets:
                if isinstance(target, ast.Attribute) and path_of(target.value) == start.self_name:
                    found[target.attr] = statement.value.id
    return found

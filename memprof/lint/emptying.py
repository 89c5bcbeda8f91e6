"""Where containers are emptied or shortened."""

from __future__ import annotations

import ast
from functools import cached_property
from typing import TYPE_CHECKING

from memprof.lint.names import base_of, parts_of, path_of, paths_in
from memprof.lint.program import FunctionInfo, Loop
from memprof.lint.vocabulary import CLEARING_METHODS

if TYPE_CHECKING:
    from memprof.lint.flow import Flow


class Emptying:
    """Answers whether a container is emptied.

    Args:
        flow: What is known of iterations.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    @cached_property
    def _places(self) -> dict[str, list[tuple[FunctionInfo, str, ast.AST]]]:
        """Last name of a container -> where it is emptied or shortened, and its path there."""
        found: dict[str, list[tuple[FunctionInfo, str, ast.AST]]] = {}

        def note(function: FunctionInfo, holder: ast.AST, node: ast.AST) -> None:
            path = path_of(base_of(holder))
            if path:
                found.setdefault(path.rpartition(".")[2], []).append((function, path, node))

        for function in self._flow.program.functions:
            for call in function.calls:
                name = function.module.qualified(call.func)
                if name in ("heapq.heappop", "heapq.heapreplace") and call.args:
                    note(function, call.args[0], call)
                elif isinstance(call.func, ast.Attribute) and call.func.attr in CLEARING_METHODS:
                    note(function, call.func.value, call)
            for statement in function.statements:
                if isinstance(statement, ast.Delete):
                    for target in statement.targets:
                        note(function, target, statement)
                elif isinstance(statement, ast.Assign):
                    for target in statement.targets:
                        for part in parts_of(target):
                            sliced = isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Slice)
                            again = isinstance(part, (ast.Attribute, ast.Name)) and function.name != "__init__"
                            if sliced or (again and self._is_shorter(part, statement.value)):
                                note(function, part, statement)
        return found

    def _is_shorter(self, target: ast.AST, value: ast.expr) -> bool:
        """Whether an assignment drops what a container held: `x = []`, `x = x[-100:]`."""
        path = path_of(target)
        if isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Slice):
            return path in paths_in(value.value)  # also of `sorted(x)[:3]`
        return path not in paths_in(value)

    def emptied(self, function: FunctionInfo, holder: ast.expr, loop: Loop | None) -> str | None:
        """Where a container is emptied: `iteration` where that is in every iteration, `later` elsewhere, or None."""
        path = path_of(base_of(holder))
        name = path.rpartition(".")[2]
        attribute = "." in path
        later = False
        for where, other, node in self._places.get(name, ()):
            if ("." in other) != attribute or (not attribute and where.module is not function.module):
                continue
            if attribute and self._of_another_class(function, path, where, other):
                continue
            if where is function and loop is not None:
                if loop in list(where.module.parents_of(node)):
                    return "iteration"
                later = later or attribute or isinstance(node, ast.Call)
            elif (
                where in self._flow.every_iteration
                or (where is function and loop is None and not isinstance(node, ast.Assign))
                or (where in self._flow.trains and self._flow.iteration_loop(where, node) is not None)
            ):
                return "iteration"
            else:
                later = later or attribute or (where is function.outer and isinstance(node, ast.Call))
        return "later" if later else None

    def _of_another_class(self, function: FunctionInfo, path: str, where: FunctionInfo, other: str) -> bool:
        """Whether both are attributes of `self`, of classes that have nothing to do with each other."""
        if function.cls is None or where.cls is None or function.cls is where.cls:
            return False
        owners = path.rpartition(".")[0], other.rpartition(".")[0]
        if owners != (function.self_name, where.self_name):
            return False
        return where.cls not in self._flow.program.bases(function.cls) and function.cls not in self._flow.program.bases(
            where.cls
        )

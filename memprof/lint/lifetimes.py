"""What outlives the iteration it is stored in, and what each iteration makes anew."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from memprof.lint.names import base_of, inside, is_constant, is_name, local_names, parts_of, path_of, paths_in
from memprof.lint.program import FunctionInfo, Loop, Site

if TYPE_CHECKING:
    from memprof.lint.flow import Flow

_DEPTH = 4
"""How many callers are gone up."""


class Lifetimes:
    """Answers what is still there in the next iteration.

    Args:
        flow: What is known of iterations.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow

    def outlives(self, function: FunctionInfo, holder: ast.expr, node: ast.AST, depth: int = 0) -> str | None:
        """Whether what is stored in a holder at a node is there in the next iteration.

        Args:
            function: Where the node is.
            holder: What it is stored in, subscripts included.
            node: The statement or call that stores.
            depth: Callers already gone up.

        Returns:
            The kind of iteration, `training`, `evaluation`, or `steps`; None when it is made anew each time or when
            nothing tells.
        """
        while isinstance(base_of(holder), ast.Call):  # d.setdefault(k, []).append(x)
            called = base_of(holder)
            if not isinstance(called, ast.Call) or not isinstance(called.func, ast.Attribute):
                return None
            holder = called.func.value
        path = path_of(base_of(holder))
        if not path or depth > _DEPTH:
            return None
        around = self._flow.iteration_loop(function, node)
        whole = self._iterated(function, path.partition(".")[0], node, around[0] if around is not None else None)
        if whole is not None:
            loop, source = whole
            return self.outlives(function, source, loop, depth + 1)
        if around is not None:
            loop, kind = around
            if not self._made_in(loop, path):
                return kind
            return None
        if function not in self._flow.every_iteration:
            return None
        root = path.partition(".")[0]
        if self._rebound(function.body, path):
            return None
        if root == function.self_name and "." in path:
            return self._through_callers(function, None, depth) or self._by_framework(function)
        if root in {parameter.arg for parameter in function.parameters}:
            return self._through_callers(function, root, depth)
        if root in local_names(function) or self._anew_around(function, path):
            return None
        return self._flow.every_iteration[function]

    def _anew_around(self, function: FunctionInfo, path: str) -> bool:
        """Whether a name from around a function is made anew in each of the iterations that the function runs in."""
        around = function.outer or function.module.body
        places: list[ast.AST] = [site.call for site in function.sites if site.caller is around]
        loops = [self._flow.iteration_loop(around, place) for place in (function.node, *places)]
        return any(found is not None and self._made_in(found[0], path) for found in loops)

    def _iterated(
        self, function: FunctionInfo, name: str, node: ast.AST, outermost: Loop | None
    ) -> tuple[Loop, ast.expr] | None:
        """The loop inside an iteration that a name runs in, and what it runs over."""
        for loop in function.module.loops_of(node):
            if loop is outermost:
                return None
            if isinstance(loop, (ast.For, ast.AsyncFor)) and name in {path_of(part) for part in parts_of(loop.target)}:
                source = loop.iter
                while isinstance(source, ast.Call):  # enumerate(x), x.items()
                    if isinstance(source.func, ast.Attribute):
                        source = source.func.value
                    elif source.args:
                        source = source.args[0]
                    else:
                        return None
                return (loop, source) if path_of(source) != name else None
        return None

    def _by_framework(self, function: FunctionInfo) -> str | None:
        return self._flow.every_iteration[function] if not function.sites else None

    def _through_callers(self, function: FunctionInfo, parameter: str | None, depth: int) -> str | None:
        """Whether the instance (None) or an argument outlives the iteration where the function is called."""
        for site in function.sites:
            if site.caller is function:
                continue
            passed = self._flow.argument(function, site.call, parameter) if parameter else _instance(function, site)
            if parameter in [item.arg for item in function.parameters[: site.bound]]:
                passed = site.call.func  # the `functools.partial` holds it
            shared = passed is None and parameter is not None and function.default(parameter)
            if isinstance(shared, (ast.List, ast.Dict)):  # one for all calls: `def note(loss, store=[])`
                around = self._flow.iteration_loop(site.caller, site.call)
                kind = around[1] if around is not None else self._flow.every_iteration.get(site.caller)
                if kind is not None:
                    return kind
            if passed is None:
                continue
            kind = self.outlives(site.caller, passed, site.call, depth + 1)
            if kind is None and isinstance(passed, ast.Name) and passed.id == site.caller.self_name:
                kind = self._own_instance(site.caller, site.call, depth + 1)
            if kind is not None:
                return kind
        return None

    def _own_instance(self, caller: FunctionInfo, call: ast.Call, depth: int) -> str | None:
        around = self._flow.iteration_loop(caller, call)
        if around is not None:
            return around[1]
        if caller not in self._flow.every_iteration or depth > _DEPTH:
            return None
        return self._through_callers(caller, None, depth) or self._by_framework(caller)

    def _made_in(self, loop: Loop, path: str) -> bool:
        """Whether each turn of a loop begins with a new object."""
        root = path.partition(".")[0]
        if isinstance(loop, (ast.For, ast.AsyncFor)):
            if any(isinstance(item, ast.Name) and item.id == root for item in ast.walk(loop.target)):
                return True
        return self._rebound(loop.body, path) or ("." in path and self._rebound(loop.body, root))

    def _rebound(self, body: list[ast.stmt], path: str) -> bool:
        """Whether statements give a name another value that is not made from its own, and not its first one."""
        for statement in body:
            first = {
                below
                for item in inside(statement)
                if isinstance(item, ast.If) and _is_unset(item.test, path)
                for part in item.body
                for below in inside(part)
            }
            for item in inside(statement):
                if item in first:
                    continue
                if isinstance(item, (ast.Assign, ast.AnnAssign)) and item.value is not None:
                    targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                    parts = [part for target in targets for part in parts_of(target)]
                    if any(path_of(part) == path for part in parts) and path not in paths_in(item.value):
                        return True
                elif isinstance(item, (ast.For, ast.AsyncFor)):
                    if any(path_of(part) == path for part in parts_of(item.target)):
                        return True
                elif isinstance(item, ast.withitem) and item.optional_vars is not None:
                    if path_of(item.optional_vars) == path:
                        return True
        return False

    def renewed(self, function: FunctionInfo, holder: ast.expr, node: ast.AST) -> bool:
        """Whether a holder is made anew in some loop around a node, though not in every iteration."""
        path = path_of(base_of(holder))
        return any(self._made_in(loop, path) for loop in function.module.loops_of(node))

    def begun_anew(self, function: FunctionInfo, holder: ast.expr) -> bool:
        """Whether another method of the class, which is not its `__init__`, gives an attribute a fresh value."""
        path = path_of(base_of(holder))
        if function.cls is None or not function.self_name or not path.startswith(f"{function.self_name}."):
            return False
        name = path.partition(".")[2]
        return any(
            self._rebound(method.body, f"{method.self_name}.{name}")
            for cls in self._flow.program.bases(function.cls)
            for method in cls.methods.values()
            if method is not function and method.name != "__init__" and method.self_name
        )


def _is_unset(test: ast.expr, path: str) -> bool:
    """Whether a condition asks for a name that has no value yet: `if self.mean is None`."""
    return (
        isinstance(test, ast.Compare)
        and path_of(test.left) == path
        and isinstance(test.ops[0], ast.Is)
        and is_constant(test.comparators[0], None)
    )


def _instance(function: FunctionInfo, site: Site) -> ast.expr | None:
    """The expression whose method a call runs: `meter` of `meter.update(x)`, `net` of `net(x)`."""
    func = site.call.func
    if function.name in ("forward", "__call__") and getattr(func, "attr", "") != function.name:
        return func
    if isinstance(func, ast.Call) and is_name(func.func, "getattr") and func.args:
        return func.args[0]
    if not isinstance(func, ast.Attribute):
        return None
    if isinstance(func.value, ast.Call) and is_name(func.value.func, "super"):
        return ast.Name(site.caller.self_name, ast.Load())
    return func.value

"""Which loops train or evaluate, what outlives an iteration, and what a backward pass goes through."""

from __future__ import annotations

import ast
from functools import cached_property

from memprof.lint.differentiated import Differentiated
from memprof.lint.emptying import Emptying
from memprof.lint.knowledge import Knowledge
from memprof.lint.names import base_of, inside, is_backward, local_names, parts_of, path_of, paths_in
from memprof.lint.program import LOOPS, FunctionInfo, Loop, Program
from memprof.lint.values import Kind, Value
from memprof.lint.vocabulary import FRAMEWORK_STEPS, guess

_DEPTH = 4


class Flow:
    """Questions about iterations and graphs, answered from what was learnt of a program.

    Args:
        program: All files.
        knowledge: Their values.
    """

    def __init__(self, program: Program, knowledge: Knowledge) -> None:
        self.program = program
        self.knowledge = knowledge
        self.callees: dict[ast.Call, FunctionInfo] = {
            site.call: function for function in program.functions for site in function.sites
        }

    def value(self, node: ast.AST | None) -> Value:
        """Value of an expression."""
        return self.knowledge.values.get(node, _NOTHING) if node is not None else _NOTHING

    # ---- who runs backward, who runs a model ---------------------------------------------------

    def _spread(self, found: set[FunctionInfo]) -> set[FunctionInfo]:
        """Functions and all that call them."""
        waiting = list(found)
        while waiting:
            function = waiting.pop()
            callers = {site.caller for site in function.sites}
            if function.outer is not None:  # a closure handed to an optimizer
                callers.add(function.outer)
            for caller in callers - found:
                found.add(caller)
                waiting.append(caller)
        return found

    @cached_property
    def trains(self) -> set[FunctionInfo]:
        """Functions in which a backward pass runs, also through what they call."""
        return self._spread(
            {
                function
                for function in self.program.functions
                if any(is_backward(call) for call in function.calls)
                and not (function.name == "forward" and self.in_module(function))  # it trains a part of itself
            }
        )

    @cached_property
    def applies(self) -> set[FunctionInfo]:
        """Functions, other than modules' methods, in which a model runs."""
        return self._spread(
            {
                function
                for function in self.program.functions
                if not self.in_module(function) and any(self.is_forward(call) for call in function.calls)
            }
        )

    def is_forward(self, call: ast.Call) -> bool:
        """Whether a call runs a module that is no loss."""
        called = self.value(call.func)
        return called.kind is Kind.MODULE and not called.loss

    def in_module(self, function: FunctionInfo) -> bool:
        """Whether a function belongs to an `nn.Module`, whose loops go over layers."""
        while function.cls is None and function.outer is not None:
            function = function.outer
        return function.cls is not None and self.program.is_module_class(function.cls)

    @cached_property
    def _inside_forward(self) -> set[FunctionInfo]:
        """Functions that a module's `forward` calls, directly or through others."""
        called: dict[FunctionInfo, list[FunctionInfo]] = {}
        for function in self.program.functions:
            for site in function.sites:
                called.setdefault(site.caller, []).append(function)
        waiting = [item for item in self.program.functions if item.name == "forward" and self.in_module(item)]
        found: set[FunctionInfo] = set()
        while waiting:
            for function in called.get(waiting.pop(), ()):
                if function not in found and function not in self.trains:
                    found.add(function)
                    waiting.append(function)
        return found

    def backward_in(self, function: FunctionInfo, node: ast.AST) -> bool:
        """Whether a backward pass runs within a part of a function."""
        for item in inside(node):
            if isinstance(item, ast.Call):
                callee = self.callees.get(item)
                if is_backward(item) or (callee is not None and callee in self.trains):
                    return True
        return any(
            info in self.trains and node in function.module.parents_of(info.node) for info in function.inner.values()
        )

    # ---- loops -------------------------------------------------------------------------------

    @cached_property
    def _kinds(self) -> dict[Loop, str]:
        kinds: dict[Loop, str] = {}
        for function in self.program.functions:
            for loop in function.loops:
                if self.backward_in(function, loop):
                    kinds[loop] = "training"
        for function in self.program.functions:
            for loop in function.loops:
                kind = self._evaluates(function, loop, kinds) if loop not in kinds else None
                if kind is not None:
                    kinds[loop] = kind
        return kinds

    def _evaluates(self, function: FunctionInfo, loop: Loop, kinds: dict[Loop, str]) -> str | None:
        """`evaluation` of a loop over a loader, `steps` of another one that runs a model, None of all others."""
        if self.in_module(function) and not self._is_lightning(function):
            return None
        if function in self._inside_forward or any(self.in_module(site.caller) for site in function.sites):
            return None  # a part of some forward
        if isinstance(loop, (ast.For, ast.AsyncFor)) and self._over_layers(loop.iter):
            return None
        turning = paths_in(loop.target) if isinstance(loop, (ast.For, ast.AsyncFor)) else set()
        runs = any(
            isinstance(item, ast.Call)
            and (self.is_forward(item) or self.callees.get(item) in self.applies)
            and not turning & paths_in(item.func)  # another layer in each turn
            for item in inside(loop)
        )
        if not runs:
            return None
        if isinstance(loop, (ast.For, ast.AsyncFor)) and self._over_loader(loop.iter):
            return "evaluation"
        nested = any(kinds.get(outer) == "training" for outer in function.module.loops_of(loop))
        if nested or function in self.trains:
            return None
        return "evaluation" if self._is_evaluation(function, loop) else "steps"

    def _is_evaluation(self, function: FunctionInfo, loop: Loop) -> bool:
        """Whether a loop goes through data with a model that is evaluated, or through batches by their name or kind."""
        if function in self.knowledge.evaluating:
            return True
        if isinstance(loop, (ast.For, ast.AsyncFor)):
            over = self.value(loop.iter)
            named = path_of(loop.iter.func if isinstance(loop.iter, ast.Call) else loop.iter).rpartition(".")[2]
            if guess(named).kind is Kind.LOADER:
                return True
            of_tensor = isinstance(loop.iter, ast.Call) and isinstance(loop.iter.func, ast.Attribute)
            if over.kind is Kind.CONTAINER and over.tensors and not over.has_graph and not of_tensor:
                return True
        return any(isinstance(item, ast.Call) and self.value(item.func).evaluating for item in inside(loop))

    def over_loader(self, function: FunctionInfo, node: ast.AST) -> bool:
        """Whether the iterations around a node are those of a loader, as far as the function shows."""
        around = self.iteration_loop(function, node)
        if around is None or not isinstance(around[0], (ast.For, ast.AsyncFor)):
            return True
        return self._over_loader(around[0].iter)

    def _over_loader(self, node: ast.expr) -> bool:
        if self.value(node).kind is Kind.LOADER:
            return True
        return isinstance(node, ast.Call) and any(self._over_loader(item) for item in node.args)

    def _over_layers(self, node: ast.expr) -> bool:
        """Whether a loop goes over the parts of a module: `for number, block in enumerate(net.blocks)`."""
        if self.value(node).kind is Kind.MODULE:
            return True
        return isinstance(node, ast.Call) and any(self._over_layers(item) for item in node.args)

    def _is_lightning(self, function: FunctionInfo) -> bool:
        cls = function.cls
        return cls is not None and any("LightningModule" in name for name in self.program.base_names(cls))

    def iteration_loop(self, function: FunctionInfo, node: ast.AST) -> tuple[Loop, str] | None:
        """The innermost loop around a node whose turns train, evaluate, or are steps, and which of these."""
        for loop in function.module.loops_of(node):
            if loop in self._kinds:
                return loop, self._kinds[loop]
        return None

    def is_innermost(self, loop: Loop) -> bool:
        """Whether a loop's turns are iterations, and not epochs of a loop inside it or inside what it calls."""
        for item in inside(loop):
            if item is not loop and isinstance(item, LOOPS) and item in self._kinds:
                return False
            callee = self.callees.get(item) if isinstance(item, ast.Call) else None
            if callee is not None and any(inner in self._kinds for inner in callee.loops):
                return False
        return True

    @cached_property
    def every_iteration(self) -> dict[FunctionInfo, str]:
        """Functions that run in every iteration of some loop, and its kind."""
        found: dict[FunctionInfo, str] = {}
        for function in self.program.functions:
            if (function.name in FRAMEWORK_STEPS and function.cls is not None) or function in self.knowledge.hooks:
                found[function] = "training"
        for _ in range(len(self.program.functions)):
            size = len(found)
            for function in self.program.functions:
                for site in function.sites if function not in found else ():
                    around = self.iteration_loop(site.caller, site.call)
                    kind = around[1] if around is not None else found.get(site.caller)
                    if kind is not None and site.caller is not function:
                        found[function] = min(kind, found.get(function, kind), key=_KINDS.index)
            if len(found) == size:
                break
        return found

    # ---- what outlives an iteration ----------------------------------------------------------

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
        around = self.iteration_loop(function, node)
        whole = self._iterated(function, path.partition(".")[0], node, around[0] if around is not None else None)
        if whole is not None:
            loop, source = whole
            return self.outlives(function, source, loop, depth + 1)
        if around is not None:
            loop, kind = around
            if not self._made_in(loop, path):
                return kind
            return None
        if function not in self.every_iteration:
            return None
        root = path.partition(".")[0]
        if self._rebound(function.body, path):
            return None
        if root == function.self_name and "." in path:
            return self._through_callers(function, None, depth) or self._by_framework(function)
        if root in {parameter.arg for parameter in function.parameters}:
            return self._through_callers(function, root, depth)
        if root in local_names(function):
            return None
        return self.every_iteration[function]

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
        return self.every_iteration[function] if not function.sites else None

    def _through_callers(self, function: FunctionInfo, parameter: str | None, depth: int) -> str | None:
        """Whether the instance (None) or an argument outlives the iteration where the function is called."""
        for site in function.sites:
            if site.caller is function:
                continue
            passed = self.argument(function, site.call, parameter) if parameter is not None else _instance(site.call)
            if passed is None:
                continue
            kind = self.outlives(site.caller, passed, site.call, depth + 1)
            if kind is None and isinstance(passed, ast.Name) and passed.id == site.caller.self_name:
                kind = self._own_instance(site.caller, site.call, depth + 1)
            if kind is not None:
                return kind
        return None

    def _own_instance(self, caller: FunctionInfo, call: ast.Call, depth: int) -> str | None:
        around = self.iteration_loop(caller, call)
        if around is not None:
            return around[1]
        if caller not in self.every_iteration or depth > _DEPTH:
            return None
        return self._through_callers(caller, None, depth) or self._by_framework(caller)

    def argument(self, function: FunctionInfo, call: ast.Call, parameter: str) -> ast.expr | None:
        """The expression a call passes for a parameter."""
        for item in call.keywords:
            if item.arg == parameter:
                return item.value
        names = [item.arg for item in function.parameters]
        if parameter in names and names.index(parameter) < len(call.args):
            return call.args[names.index(parameter)]
        return None

    def _made_in(self, loop: Loop, path: str) -> bool:
        """Whether each turn of a loop begins with a new object."""
        root = path.partition(".")[0]
        if isinstance(loop, (ast.For, ast.AsyncFor)):
            if any(isinstance(item, ast.Name) and item.id == root for item in ast.walk(loop.target)):
                return True
        return self._rebound(loop.body, path) or ("." in path and self._rebound(loop.body, root))

    def _rebound(self, body: list[ast.stmt], path: str) -> bool:
        """Whether statements give a name another value that is not made from its own."""
        for statement in body:
            for item in inside(statement):
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
            for cls in self.program.bases(function.cls)
            for method in cls.methods.values()
            if method is not function and method.name != "__init__" and method.self_name
        )

    # ---- emptied -----------------------------------------------------------------------------

    @cached_property
    def _emptying(self) -> Emptying:
        return Emptying(self)

    def emptied(self, function: FunctionInfo, holder: ast.expr, loop: Loop | None) -> str | None:
        """Where a container is emptied: `iteration` where that is in every iteration, `later` elsewhere, or None."""
        return self._emptying.emptied(function, holder, loop)

    # ---- what a backward pass goes through ---------------------------------------------------

    @cached_property
    def differentiated(self) -> Differentiated:
        """What a backward pass goes through."""
        return Differentiated(self.program, self.callees, self.value)

    def reaches_backward(self, function: FunctionInfo, expression: ast.expr) -> bool:
        """Whether a backward pass goes through what an expression names, in this function or another."""
        return self.differentiated.expression(function, expression)

    def result_reaches_backward(self, function: FunctionInfo) -> bool:
        """Whether a backward pass goes through what a function returns."""
        return self.differentiated.result(function)


_NOTHING = Value(Kind.UNKNOWN)
_KINDS = ("training", "evaluation", "steps")
"""Kinds of iterations, the surest first. Steps may be those of a sequence, or chunks of one batch."""


def _instance(call: ast.Call) -> ast.expr | None:
    return call.func.value if isinstance(call.func, ast.Attribute) else None

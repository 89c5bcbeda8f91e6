"""Which loops train or evaluate, what outlives an iteration, and what a backward pass goes through."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cached_property

from memprof.lint.differentiated import Differentiated
from memprof.lint.emptying import Emptying
from memprof.lint.knowledge import Knowledge
from memprof.lint.lifetimes import Lifetimes
from memprof.lint.names import inside, is_backward, is_name, path_of, paths_in
from memprof.lint.program import LOOPS, FunctionInfo, Loop, Program
from memprof.lint.values import Kind, Value
from memprof.lint.vocabulary import FRAMEWORK_STEPS, PLAIN_FUNCTIONS, PLAIN_METHODS, guess


class Flow:
    """Questions about iterations and graphs, answered from what was learnt of a program.

    Args:
        program: All files.
        knowledge: Their values.
    """

    def __init__(self, program: Program, knowledge: Knowledge) -> None:
        self.program = program
        self.knowledge = knowledge
        self._callees: dict[ast.Call, list[FunctionInfo]] = {}
        self._bound: dict[ast.Call, int] = {}
        for function in program.functions:
            for site in function.sites:
                self._callees.setdefault(site.call, []).append(function)
                self._bound[site.call] = site.bound

    def value(self, node: ast.AST | None) -> Value:
        """Value of an expression."""
        return self.knowledge.values.get(node, _NOTHING) if node is not None else _NOTHING

    def callees(self, node: ast.AST) -> Sequence[FunctionInfo]:
        """The functions under check that a call may call."""
        return self._callees.get(node, ()) if isinstance(node, ast.Call) else ()

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
        """Whether a call runs a module that is no loss, or a method of one that runs its layers."""
        return self.module_run(call) is not None

    def module_run(self, call: ast.Call) -> ast.expr | None:
        """The module that a call runs, no loss: `net` of `net(x)` and `net.encode(x)`."""
        called = self.value(call.func)
        if called.kind is Kind.MODULE:
            return None if called.loss else call.func
        if called.kind is not Kind.FUNCTION or not isinstance(call.func, ast.Attribute):
            return None
        owner = self.value(call.func.value)
        runs = called.function in self._runs_layers and owner.kind is Kind.MODULE and not owner.loss
        return call.func.value if runs and not owner.derived else None

    @cached_property
    def _runs_layers(self) -> set[FunctionInfo]:
        """Methods of modules that run a layer, directly or through others."""
        found: set[FunctionInfo] = set()
        methods = [item for item in self.program.functions if item.name != "__init__" and self.in_module(item)]
        for _ in methods:
            size = len(found)
            for method in methods:
                for call in method.calls:
                    called = self.value(call.func)
                    layers = called.kind is Kind.MODULE and not called.loss
                    if layers or any(callee in found for callee in self.callees(call)):
                        found.add(method)
            if len(found) == size:
                break
        return found

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
                if is_backward(item) or any(callee in self.trains for callee in self.callees(item)):
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
            and (self.is_forward(item) or any(callee in self.applies for callee in self.callees(item)))
            and not turning & paths_in(item.func)  # another layer in each turn
            for item in inside(loop)
        )
        if not runs:
            return None
        if self.goes_over_loader(loop):
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
            if _goes_in_slices(loop):
                return True
        return any(isinstance(item, ast.Call) and self.value(item.func).evaluating for item in inside(loop))

    def over_loader(self, function: FunctionInfo, node: ast.AST) -> bool:
        """Whether the iterations around a node are those of a loader, as far as the function shows."""
        around = self.iteration_loop(function, node)
        if around is None or not isinstance(around[0], (ast.For, ast.AsyncFor)):
            return True
        return self.gives_batches(around[0].iter)

    def goes_over_loader(self, loop: Loop) -> bool:
        """Whether a loop goes through the batches of a loader."""
        return isinstance(loop, (ast.For, ast.AsyncFor)) and self.gives_batches(loop.iter)

    def gives_batches(self, node: ast.expr) -> bool:
        """Whether an expression is a loader, or goes through one: `enumerate(loader)`."""
        if self.value(node).kind is Kind.LOADER:
            return True
        return isinstance(node, ast.Call) and any(self.gives_batches(item) for item in node.args)

    def _over_layers(self, node: ast.expr) -> bool:
        """Whether a loop goes over the parts of a module: `for number, block in enumerate(net.blocks)`."""
        if self.value(node).kind is Kind.MODULE:
            return True
        return isinstance(node, ast.Call) and any(self._over_layers(item) for item in node.args)

    def _is_lightning(self, function: FunctionInfo) -> bool:
        cls = function.cls
        return cls is not None and any("LightningModule" in name for name in self.program.base_names(cls))

    def _is_trainer(self, function: FunctionInfo) -> bool:
        """Whether a method belongs to a trainer of another package, which calls it."""
        cls = function.cls
        return cls is not None and any(name.endswith("Trainer") for name in self.program.base_names(cls))

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
            if any(inner in self._kinds for callee in self.callees(item) for inner in callee.loops):
                return False
        return True

    @cached_property
    def every_iteration(self) -> dict[FunctionInfo, str]:
        """Functions that run in every iteration of some loop, and its kind."""
        found: dict[FunctionInfo, str] = {}
        for function in self.program.functions:
            if (
                (function.name in FRAMEWORK_STEPS and function.cls is not None)
                or (function.name == "compute_loss" and self._is_trainer(function))
                or function in self.knowledge.hooks
                or (not function.sites and self._handed_over(function))
            ):
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

    def argument(self, function: FunctionInfo, call: ast.Call, parameter: str) -> ast.expr | None:
        """The expression a call passes for a parameter."""
        for item in call.keywords:
            if item.arg == parameter:
                return item.value
        names = [item.arg for item in function.parameters]
        number = names.index(parameter) - self._bound.get(call, 0) if parameter in names else -1
        given = call.args[: number + 1]
        if number < 0 or len(given) <= number or any(isinstance(item, ast.Starred) for item in given):
            return None
        return given[number]

    def _handed_over(self, function: FunctionInfo) -> bool:
        """Whether a training iteration passes a function to what is not under check: `optimizer.step(closure)`."""
        around = function.outer or function.module.body
        for call in around.calls if function.cls is None else ():
            passed = (*call.args, *(item.value for item in call.keywords))
            if any(is_name(item, function.name) for item in passed):
                loop = self.iteration_loop(around, call)
                if loop is not None and loop[1] == "training" and not self.callees(call):
                    return True
        return False

    # ---- what outlives an iteration ----------------------------------------------------------

    @cached_property
    def lifetimes(self) -> Lifetimes:
        """What outlives an iteration, and what is made anew in each."""
        return Lifetimes(self)

    def outlives(self, function: FunctionInfo, holder: ast.expr, node: ast.AST) -> str | None:
        """Whether what is stored in a holder at a node is there in the next iteration: as `Lifetimes.outlives`."""
        return self.lifetimes.outlives(function, holder, node)

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

    def handed_over(self, function: FunctionInfo, call: ast.Call) -> list[ast.expr]:
        """The arguments that a call takes, with their graph, to where the check cannot follow them."""
        name = function.module.qualified(call.func)
        passed = [item for item in (*call.args, *(one.value for one in call.keywords)) if self.value(item).has_graph]
        if not passed or self.callees(call) or self.value(call.func).kind in (Kind.MODULE, Kind.CLASS):
            return []
        if name.startswith(("torch.", "numpy.", "math.")) or name in PLAIN_FUNCTIONS:
            return []
        if isinstance(call.func, ast.Attribute):
            if call.func.attr in PLAIN_METHODS or self.value(call.func.value).kind is not Kind.UNKNOWN:
                return []  # a method of a tensor, a container, an object under check
        return passed

    def reaches_backward(self, function: FunctionInfo, expression: ast.expr) -> bool:
        """Whether a backward pass goes through what an expression names, in this function or another."""
        return self.differentiated.expression(function, expression)

    def result_reaches_backward(self, function: FunctionInfo) -> bool:
        """Whether a backward pass goes through what a function returns."""
        return self.differentiated.result(function)


def _goes_in_slices(loop: Loop) -> bool:
    """Whether a loop takes batch after batch out of a tensor: `for i in range(0, len(x), n): net(x[i : i + n])`."""
    if not isinstance(loop, (ast.For, ast.AsyncFor)) or not isinstance(loop.iter, ast.Call):
        return False
    if not is_name(loop.iter.func, "range") or len(loop.iter.args) != 3 or not isinstance(loop.target, ast.Name):
        return False
    return any(
        isinstance(item, ast.Subscript)
        and isinstance(item.slice, ast.Slice)
        and item.slice.lower is not None
        and is_name(item.slice.lower, loop.target.id)
        for item in inside(loop)
    )


_NOTHING = Value(Kind.UNKNOWN)
_KINDS = ("training", "evaluation", "steps")
"""Kinds of iterations, the surest first. Steps may be those of a sequence, or chunks of one batch."""

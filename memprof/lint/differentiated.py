"""What a backward pass goes through: names, attributes, and results of functions, by the ways values take."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from memprof.lint.names import base_of, is_backward, local_names, parts_of
from memprof.lint.program import FunctionInfo, Program, SourceModule
from memprof.lint.values import Kind, Value
from memprof.lint.vocabulary import EXTENDING_METHODS, FRAMEWORK_STEPS, STORING_METHODS

_ROUNDS = 8
_CUTTING_METHODS = frozenset("item detach tolist numpy size argmax".split())
_CUTTING_ATTRIBUTES = frozenset("data shape device dtype grad".split())


@dataclass(frozen=True, slots=True)
class _Way:
    """Values that go from some names and calls into others; attributes are written `.name`."""

    into: frozenset[str]
    names: frozenset[str]
    callees: frozenset[FunctionInfo]


@dataclass(slots=True)
class _Ways:
    """The ways of one function."""

    backward: list[_Way] = field(default_factory=list)
    assigned: list[_Way] = field(default_factory=list)
    returned: list[_Way] = field(default_factory=list)
    passed: list[tuple[FunctionInfo, str, _Way]] = field(default_factory=list)
    local: set[str] = field(default_factory=set)


class Differentiated:
    """Answers whether a backward pass goes through something.

    Args:
        program: All files.
        callees: Which functions a call may call.
        value: Value of an expression; what has no graph carries nothing on.
    """

    def __init__(
        self,
        program: Program,
        callees: Callable[[ast.AST], Sequence[FunctionInfo]],
        value: Callable[[ast.AST], Value],
    ) -> None:
        self._callees = callees
        self._value = value
        self._ways = {function: self._ways_of(function) for function in program.functions}
        self._names: dict[FunctionInfo, set[str]] = {function: set() for function in program.functions}
        self._inside: dict[FunctionInfo, set[str]] = {function: set() for function in program.functions}
        self._attributes: dict[SourceModule, set[str]] = {module: set() for module in program.modules}
        self._results: set[FunctionInfo] = set()
        self._spread(program)

    def result(self, function: FunctionInfo) -> bool:
        """Whether a backward pass goes through what a function returns."""
        return function in self._results

    def expression(self, function: FunctionInfo, node: ast.expr) -> bool:
        """Whether a backward pass goes through what an expression names."""
        key = _key(node)
        if key.startswith("."):
            return key in self._attributes[function.module]
        if key in self._names[function]:
            return True
        outer = function.outer
        while outer is not None and key not in self._ways[function].local:
            if key in self._names[outer]:
                return True
            outer = outer.outer
        return False

    # ---- spreading ---------------------------------------------------------------------------

    def _spread(self, program: Program) -> None:
        for _ in range(_ROUNDS):
            size = self._size()
            for function in program.functions:
                self._go(function)
            if self._size() == size:
                return

    def _size(self) -> int:
        sets = (self._names, self._inside, self._attributes)
        return sum(len(names) for found in sets for names in found.values()) + len(self._results)

    def _go(self, function: FunctionInfo) -> None:
        ways, attributes = self._ways[function], self._attributes[function.module]
        names, own = self._names[function], self._inside[function]
        for found in (own, names):
            for way in ways.backward:
                self._follow(way, found, attributes)
            for callee, parameter, way in ways.passed:
                if parameter in self._inside[callee]:
                    self._follow(way, found, attributes)
            if found is names and (function in self._results or function.name in FRAMEWORK_STEPS):
                for way in ways.returned:
                    self._follow(way, found, attributes)
            changed = True
            while changed:
                size = len(found) + len(attributes)
                for way in ways.assigned:
                    if way.into & found or way.into & attributes:
                        self._follow(way, found, attributes)
                changed = len(found) + len(attributes) > size
        if function.outer is not None:  # a closure shares names
            self._names[function.outer] |= names - ways.local
            self._inside[function.outer] |= own - ways.local

    def _follow(self, way: _Way, names: set[str], attributes: set[str]) -> None:
        for name in way.names:
            (attributes if name.startswith(".") else names).add(name)
        self._results |= way.callees

    # ---- ways --------------------------------------------------------------------------------

    def _ways_of(self, function: FunctionInfo) -> _Ways:
        ways = _Ways(local=local_names(function))
        for call in function.calls:
            if is_backward(call) and isinstance(call.func, ast.Attribute):
                ways.backward.append(self._way(call.func.value, *call.args))
            elif function.module.qualified(call.func) in ("torch.autograd.grad", "torch.autograd.backward"):
                ways.backward.append(self._way(*call.args))
            elif isinstance(call.func, ast.Attribute) and call.func.attr in STORING_METHODS | EXTENDING_METHODS:
                if call.args and _key(call.func.value):
                    ways.assigned.append(self._way(call.args[-1], into=[call.func.value]))
            for callee in self._callees(call):
                for number, parameter in enumerate(callee.parameters):
                    given = next((item.value for item in call.keywords if item.arg == parameter.arg), None)
                    if given is None and number < len(call.args):
                        given = call.args[number]
                    if given is not None:
                        ways.passed.append((callee, parameter.arg, self._way(given)))
        for statement in function.statements:
            if isinstance(statement, ast.Return) and statement.value is not None:
                ways.returned.append(self._way(statement.value))
            elif isinstance(statement, ast.Assign):
                targets = [part for target in statement.targets for part in parts_of(target)]
                ways.assigned.append(self._way(statement.value, into=targets))
            elif isinstance(statement, (ast.AnnAssign, ast.AugAssign)) and statement.value is not None:
                ways.assigned.append(self._way(statement.value, into=[statement.target]))
            elif isinstance(statement, (ast.For, ast.AsyncFor)):
                ways.assigned.append(self._way(statement.iter, into=parts_of(statement.target)))
        for item in function.bindings:
            value = item.iter if isinstance(item, ast.comprehension) else item.value
            ways.assigned.append(self._way(value, into=parts_of(item.target)))
        return ways

    def _way(self, *nodes: ast.expr, into: list[ast.expr] | None = None) -> _Way:
        names: set[str] = set()
        callees: set[FunctionInfo] = set()
        for item in (part for node in nodes for part in _flowing(node)):
            if self._value(item).kind in (Kind.PLAIN, Kind.TENSOR):
                continue
            if isinstance(item, ast.Name):
                names.add(item.id)
            elif isinstance(item, ast.Attribute):
                names.add(f".{item.attr}")
            elif isinstance(item, ast.Call):
                callees.update(self._callees(item))
        return _Way(frozenset(_key(part) for part in into or ()) - {""}, frozenset(names), frozenset(callees))


def _key(node: ast.AST) -> str:
    """`name` for names, `.attribute` for attributes, subscripts left out."""
    base = base_of(node)
    if isinstance(base, ast.Attribute):
        return f".{base.attr}"
    return base.id if isinstance(base, ast.Name) else ""


def _flowing(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression whose graph is part of the expression's."""
    if isinstance(node, ast.Call):
        yield node
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in _CUTTING_METHODS:
                return
            yield from _flowing(node.func.value)
        for argument in (*node.args, *(item.value for item in node.keywords)):
            yield from _flowing(argument)
    elif isinstance(node, ast.Attribute):
        if node.attr in _CUTTING_ATTRIBUTES:
            return
        yield node
        if not isinstance(node.value, ast.Name):
            yield from _flowing(node.value)
        elif node.value.id != "self":
            yield node.value
    elif isinstance(node, ast.Name):
        yield node
    elif not isinstance(node, ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _flowing(child)

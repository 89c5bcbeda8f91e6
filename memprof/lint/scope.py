"""What names stand for at one point of a function, and how assignments and conditions change it."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from dataclasses import replace

from memprof.lint.knowledge import Knowledge
from memprof.lint.names import path_of, text_of
from memprof.lint.narrowing import tensor_asked
from memprof.lint.program import ClassInfo, FunctionInfo, Program
from memprof.lint.values import GRAPH, PLAIN, UNKNOWN, Kind, Value, container, element_of, unpack, with_entry
from memprof.lint.vocabulary import guess


class Scope(ABC):
    """Names and attributes of one function, at one point of it, and whether autograd is on there.

    Args:
        program: All files.
        function: Where the names are.
        knowledge: What is noted down.
    """

    def __init__(self, program: Program, function: FunctionInfo, knowledge: Knowledge) -> None:
        self.program = program
        self.function = function
        self.module = function.module
        self.knowledge = knowledge
        self.env: dict[str, Value] = {}
        self.grad: bool | None = True
        self.evaluating = False
        self.makes_graphs = False
        """A graph was met that comes from no argument."""

    @abstractmethod
    def value(self, node: ast.expr | None) -> Value:
        """Value of an expression, noted down."""

    def graph(self, *, scalar: bool = False, output: bool = False, guess: bool = False) -> Value:
        """A tensor as autograd makes it here."""
        kind = Kind.TENSOR if self.grad is False else Kind.GRAPH
        return Value(kind, scalar=scalar, output=output, guess=guess)

    def without_graph(self, value: Value) -> Value:
        """A value as it is where autograd is off."""
        if value.kind in (Kind.GRAPH, Kind.PARAMETER):
            return replace(value, kind=Kind.TENSOR)
        if value.kind not in (Kind.TUPLE, Kind.CONTAINER, Kind.OBJECT):
            return value
        element = None if value.element is None else self.without_graph(value.element)
        return replace(value, items=tuple(self.without_graph(item) for item in value.items), element=element)

    def brought(self, value: Value) -> Value:
        """A value that comes into the function otherwise than by its arguments."""
        self.makes_graphs = self.makes_graphs or any(item.kind is not Kind.TENSOR for item in value.tensors)
        return value

    def lookup(self, name: str) -> Value:
        """What a name stands for here."""
        if name in self.env:
            return self.env[name]
        outer = self.function.outer
        while outer is not None:
            if name in outer.environment:
                return self.brought(outer.environment[name])
            outer = outer.outer
        if self.function is not self.module.body and name in self.module.body.environment:
            return self.brought(self.module.body.environment[name])
        scope: FunctionInfo | None = self.function
        while scope is not None:
            if name in scope.inner:
                return Value(Kind.FUNCTION, function=scope.inner[name])
            scope = scope.outer
        dotted = self.module.imports.get(name, name)
        found = self.program.find(dotted, self.module)
        if found is not None:
            return definition(found)
        return UNKNOWN if dotted != name else guess(name)

    # ---- binding -----------------------------------------------------------------------------

    def bind(self, target: ast.expr, value: Value) -> None:
        """Let a target of an assignment stand for a value."""
        self.knowledge.values[target] = value
        if isinstance(target, ast.Name):
            self.set_path(target.id, value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            items = unpack(value, len(target.elts))
            if value.kind is Kind.GRAPH and not value.items and _is_loss(target.elts[0]):
                items[1:] = [UNKNOWN] * (len(items) - 1)  # what goes with a loss need have no graph
            for part, item in zip(target.elts, items, strict=True):
                if isinstance(part, ast.Starred):
                    self.bind(part.value, container("list", element_of(value)))
                else:
                    self.bind(part, item)
        elif isinstance(target, ast.Attribute):
            self.value(target.value)
            path = path_of(target)
            if path and target.attr not in ("data", "grad", "requires_grad"):
                self.set_path(path, value)
        elif isinstance(target, ast.Subscript):
            self.value(target.slice)
            self.value(target.value)
            self.store(target.value, value, key=text_of(target.slice))

    def set_path(self, path: str, value: Value) -> None:
        """Let a name or an attribute stand for a value; what hung on the old one is forgotten."""
        if value.kind is Kind.UNKNOWN:
            named = guess(path.rpartition(".")[2])
            value = named if named.kind is not Kind.UNKNOWN else value
        for known in [known for known in self.env if known.startswith(f"{path}.")]:
            del self.env[known]
        self.env[path] = value

    def store(self, holder: ast.expr, value: Value, shape: str = "", key: str | None = None) -> None:
        """Put a value into a container, under a key where that is known, or write it into a tensor."""
        current = self.value(holder)
        if current.kind is Kind.CONTAINER:
            self._replace(holder, with_entry(replace(current, shape=current.shape or shape), key, value))
        elif current.kind is Kind.TENSOR and value.has_graph and self.grad is not False:
            self._replace(holder, replace(GRAPH, host=current.host))
        elif current.kind is Kind.UNKNOWN and shape:
            self._replace(holder, container(shape, value))

    def _replace(self, holder: ast.expr, value: Value) -> None:
        path = path_of(holder)
        if path:
            self.env[path] = value
        elif isinstance(holder, ast.Subscript):
            self.store(holder.value, value, key=text_of(holder.slice))
        elif isinstance(holder, ast.Call) and isinstance(holder.func, ast.Attribute):  # d.setdefault(k, []).append(x)
            self.store(holder.func.value, value, key=text_of(holder.args[0]) if holder.args else None)

    # ---- narrowing ---------------------------------------------------------------------------

    def narrow(self, test: ast.expr, *, holds: bool) -> None:
        """Use what a condition says of a name: after `not isinstance(x, torch.Tensor)` x is a number."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.narrow(test.operand, holds=not holds)
            return
        if isinstance(test, ast.BoolOp):
            if isinstance(test.op, ast.And) == holds:
                for part in test.values:
                    self.narrow(part, holds=holds)
            return
        asked = tensor_asked(test, self.module.qualified)
        if asked is not None and not holds and path_of(asked):
            self.env[path_of(asked)] = PLAIN


def definition(found: FunctionInfo | ClassInfo) -> Value:
    """The value that a function or class of the program is."""
    if isinstance(found, ClassInfo):
        return Value(Kind.CLASS, cls=found)
    return Value(Kind.FUNCTION, function=found)


def _is_loss(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and "loss" in target.id.lower()

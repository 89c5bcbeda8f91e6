"""What Python's builtins, its containers, and functions of other packages give."""

from __future__ import annotations

import ast
from abc import abstractmethod
from dataclasses import replace

from memprof.lint.names import is_constant, is_name, keyword, text_of
from memprof.lint.program import ClassInfo
from memprof.lint.torch_calls import TorchReader
from memprof.lint.values import (
    MODULE,
    PLAIN,
    UNKNOWN,
    Kind,
    Value,
    container,
    dictionary,
    element_of,
    join,
    join_all,
    turn_of,
    unpack,
)
from memprof.lint.vocabulary import EXTENDING_METHODS, PLAIN_FUNCTIONS, STORING_METHODS


class LibraryReader(TorchReader):
    """Values of calls of what is no part of the program."""

    @abstractmethod
    def construct(
        self, cls: ClassInfo, node: ast.Call, arguments: list[Value], keywords: dict[str | None, Value]
    ) -> Value:
        """A new instance of a class of the program."""

    # ---- containers --------------------------------------------------------------------------

    def keep(self, holder: ast.expr, name: str, arguments: list[Value]) -> None:
        """Put into a container what a method of it, such as `append`, is given."""
        if name in STORING_METHODS:
            self.store(holder, arguments[-1], "list" if name != "add" else "set")
        elif name in EXTENDING_METHODS:
            self.store(holder, element_of(arguments[0]), "list")

    def container_method(
        self,
        node: ast.Call,
        holder: ast.expr,
        base: Value,
        arguments: list[Value],
        keywords: dict[str | None, Value],
    ) -> Value:
        """What a method of a container gives, with its effect on the container."""
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        key = text_of(node.args[0]) if node.args else None
        element = base.entry(key)
        if name == "items":
            return container("iterator", Value(Kind.TUPLE, items=(PLAIN, base.element or UNKNOWN)))
        if name == "values":
            return container("iterator", base.element, bounded=base.bounded)
        if name == "keys":
            return container("iterator", PLAIN)
        if name == "copy":
            return base
        if name == "setdefault":
            default = arguments[1] if len(arguments) > 1 else PLAIN
            found = default if base.element is None else join(element, default)
            self.store(holder, found, key=key)
            return found
        if name == "update":
            self._update(holder, arguments, keywords)
            return PLAIN
        if name == "clear":
            return PLAIN
        return element if name in ("get", "pop", "popleft", "popitem", "get_nowait") else UNKNOWN

    def _update(self, holder: ast.expr, arguments: list[Value], keywords: dict[str | None, Value]) -> None:
        """`held.update(other, key=value)`."""
        entries = [(key, value) for key, value in keywords.items() if key is not None]
        for other in arguments:
            if other.kind is Kind.CONTAINER and other.names:
                entries += zip(other.names, other.items, strict=True)
            elif other.element is not None or other.kind is not Kind.CONTAINER:
                self.store(holder, element_of(other))
        for key, value in entries:
            self.store(holder, value, key=key)

    # ---- functions by their names ------------------------------------------------------------

    def _collected(self, name: str, arguments: list[Value], keywords: dict[str | None, Value]) -> Value:
        """What `list(...)` and the like make of what they are given."""
        first = arguments[0] if arguments else UNKNOWN
        if name == "iter" or (name == "tuple" and first.kind is Kind.TUPLE):
            return first
        if name == "next":
            return turn_of(first)
        if name == "dict":
            entries = {key: value for key, value in keywords.items() if key is not None}
            if first.kind is not Kind.CONTAINER:
                return dictionary(entries)
            return first if first.shape == "dict" else dictionary(entries, [unpack(element_of(first), 2)[1]])
        shape = {"sorted": "list", "list": "list", "set": "set"}.get(name, "iterator")
        return container(shape, turn_of(first) if arguments else None)

    def by_name(self, node: ast.Call, name: str, arguments: list[Value], keywords: dict[str | None, Value]) -> Value:
        """What a function that is no part of the program gives, by its dotted name."""
        first = arguments[0] if arguments else UNKNOWN
        last = name.rpartition(".")[2]
        if name in _COLLECTING:
            return self._collected(name, arguments, keywords)
        if name in ("abs", "round") and first.is_tensor:
            return self.arithmetic(first)
        if name == "heapq.heappush" and len(arguments) == 2:
            self.store(node.args[0], arguments[1], "list")
            return PLAIN
        if name == "random.choice":
            return element_of(first)
        if name in ("random.sample", "random.choices"):
            return container("list", element_of(first))
        if name == "sum" and first.tensors:
            return replace(self.arithmetic(*first.tensors), scalar=all(item.scalar for item in first.tensors))
        if name in ("collections.namedtuple", "namedtuple"):
            return Value(Kind.CLASS, names=_words_of(node.args[1]) if len(node.args) > 1 else ())
        if name.startswith("numpy.") and is_name(keyword(node, "dtype"), "object"):
            return container("dict")
        if name in PLAIN_FUNCTIONS or name.startswith(("numpy.", "math.", "time.", "os.", "random.", "json.")):
            return PLAIN
        if name in ("collections.deque", "deque"):
            limit = node.args[1] if len(node.args) > 1 else keyword(node, "maxlen")
            bounded = limit is not None and not is_constant(limit, None)
            return container("deque", first.element if arguments else None, bounded=bounded)
        if name in ("collections.defaultdict", "defaultdict"):
            kind = ast.unparse(node.args[0]) if node.args else ""
            inner = {"list": container("list"), "dict": container("dict"), "deque": container("deque")}.get(kind)
            if node.args and isinstance(node.args[0], ast.Lambda):
                inner = self.value(node.args[0].body)
            elif first.kind is Kind.CLASS and first.cls is not None:
                inner = self.construct(first.cls, ast.copy_location(ast.Call(node.args[0], [], []), node), [], {})
            return container("dict", inner or (PLAIN if kind in ("int", "float") else None))
        if name.startswith(("queue.", "multiprocessing.")) and last in ("Queue", "SimpleQueue", "LifoQueue"):
            return container("queue", bounded=bool(node.args or node.keywords))
        if name == "dataclasses.field" or name == "field":
            factory = keyword(node, "default_factory")
            made = ast.unparse(factory) if factory is not None else ""
            return container(made) if made in ("list", "dict", "set", "deque") else UNKNOWN
        if name in ("tqdm", "trange") or name.startswith(("tqdm.", "rich.progress")):
            return first if last != "trange" else container("iterator", PLAIN)
        if name == "zip":
            return container("iterator", Value(Kind.TUPLE, items=tuple(turn_of(item) for item in arguments)))
        if name == "enumerate":
            return container("iterator", Value(Kind.TUPLE, items=(PLAIN, turn_of(first))))
        if name == "getattr" and len(arguments) > 1:
            found = [self.member(first, text) for text in arguments[1].names]
            return join_all(value for value in found if value is not None)
        if name in ("functools.partial", "partial") and first.kind is Kind.FUNCTION:
            more = [(value, key) for key, value in keywords.items() if key is not None]
            passed = [(value, "") for value in arguments[1:]] + more
            return replace(
                first,
                items=tuple(value for value, _ in passed),
                names=tuple(key for _, key in passed),
                others=(),
            )
        if name == "super":
            return self._super()
        if name == "timm.create_model":
            return MODULE
        if "loss" in last.lower() and any(item.has_graph for item in (*arguments, *keywords.values())):
            return self.graph(scalar=True, guess=True)
        return UNKNOWN

    def _super(self) -> Value:
        """`super()`: the nearest base under check."""
        cls = self.function.cls
        base = next((item for item in self.program.bases(cls) if item is not cls), None) if cls is not None else None
        if base is None:
            return UNKNOWN
        kind = Kind.MODULE if self.program.is_module_class(base) else Kind.OBJECT
        return Value(kind, cls=base)


_COLLECTING = frozenset("list tuple set dict sorted reversed iter next".split())


def _words_of(node: ast.expr) -> tuple[str, ...]:
    """Names of fields as `namedtuple` takes them: `"loss acc"`, `["loss", "acc"]`."""
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(text for item in node.elts if (text := text_of(item)) is not None)
    return tuple((text_of(node) or "").replace(",", " ").split())

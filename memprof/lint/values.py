"""What a name may stand for, as far as the source tells."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memprof.lint.program import ClassInfo, FunctionInfo

_DEPTH = 4
"""How deep containers are followed into each other."""

_NAMES = 32
"""How many keys of a dictionary are told apart."""

_ALTERNATIVES = 12
"""How many classes or functions one value may stand for."""


class Kind(enum.Enum):
    """What sort of object a value is."""

    UNKNOWN = "unknown"
    PLAIN = "plain"
    """A number, a string, None, a NumPy array: no tensor."""
    TENSOR = "tensor"
    """A tensor without a graph behind it."""
    GRAPH = "graph"
    """A tensor with a graph behind it."""
    PARAMETER = "parameter"
    MODULE = "module"
    OPTIMIZER = "optimizer"
    LOADER = "loader"
    CONTAINER = "container"
    """A list, dict, set, deque, or what iterates over one."""
    TUPLE = "tuple"
    STATE_DICT = "state_dict"
    OBJECT = "object"
    """An instance of a class of the project."""
    CLASS = "class"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class Value:
    """One abstract value.

    Attributes:
        kind: What sort of object it is.
        scalar: A tensor known to have one element.
        host: A tensor known to lie in host memory.
        guess: Rests on how something is called, not on where it comes from.
        frozen: A module whose parameters take no gradient, or that has none.
        loss: A module or function that compares outputs with targets.
        output: Came straight out of a module, and so may be any structure of tensors.
        weights: A tensor computed from parameters and nothing else.
        activation: A tensor computed by a module.
        gradient: A gradient, not yet worked on.
        evaluating: A module in evaluation mode.
        copied: A state dict that was copied.
        bounded: A container that forgets.
        shape: For containers: list, dict, set, deque, queue, iterator.
        cls: Class of a module, object, or the class itself.
        function: The function itself.
        items: Elements of a tuple, or of the tuple that a tensor may turn out to be; fields of an instance; values of a
            dictionary whose keys are known.
        names: Of the fields or keys that `items` are for; empty where they go by position. Of text: all that it may be.
        others: What it may be as well: objects of other classes, other functions.
        derived: An object, or a module, that may be of a class derived from `cls`: what a method calls `self`.
        element: What a container or loader gives; the layers of a `Sequential`.
    """

    kind: Kind
    scalar: bool = False
    host: bool = False
    guess: bool = False
    frozen: bool = False
    loss: bool = False
    output: bool = False
    weights: bool = False
    activation: bool = False
    gradient: bool = False
    evaluating: bool = False
    copied: bool = False
    bounded: bool = False
    shape: str = ""
    cls: ClassInfo | None = None
    function: FunctionInfo | None = None
    items: tuple[Value, ...] = ()
    names: tuple[str, ...] = ()
    others: tuple[Value, ...] = ()
    derived: bool = False
    element: Value | None = None

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor for certain."""
        return self.kind in (Kind.TENSOR, Kind.GRAPH, Kind.PARAMETER)

    @property
    def has_graph(self) -> bool:
        """Whether it is, or holds, a tensor with a graph."""
        if self.kind is Kind.GRAPH:
            return True
        if self.kind in _WITH_ITEMS:
            return any(item.has_graph for item in (*self.items, *self.others))
        return self.kind is Kind.CONTAINER and self.element is not None and self.element.has_graph

    @property
    def is_bare(self) -> bool:
        """Whether there is certainly no graph, and nothing that makes one, in it."""
        if self.kind is Kind.TUPLE:
            return all(item.is_bare for item in self.items)
        if self.kind in (Kind.CONTAINER, Kind.LOADER):
            return self.element is None or self.element.is_bare
        return self.kind in (Kind.PLAIN, Kind.TENSOR, Kind.STATE_DICT, Kind.FUNCTION, Kind.CLASS)

    @property
    def tensors(self) -> list[Value]:
        """The tensors it is or holds."""
        if self.is_tensor:
            return [self]
        parts: tuple[Value | None, ...] = (self.element,) if self.kind is Kind.CONTAINER else ()
        if self.kind in _WITH_ITEMS:
            parts = (*self.items, *self.others)
        return [tensor for part in parts if part is not None for tensor in part.tensors]

    @property
    def alternatives(self) -> tuple[Value, ...]:
        """All that it may be, one by one."""
        return (replace(self, others=()), *self.others) if self.others else (self,)

    def named(self, name: str) -> Value | None:
        """The field or entry of a name; None where it is not known apart from the others."""
        return self.items[self.names.index(name)] if name in self.names else None

    def entry(self, key: str | None) -> Value:
        """What a dictionary has under a key; None is a key that is not known.

        Where some keys are known, nothing is said of the others.
        """
        if key is None or not self.names:
            return self.element or UNKNOWN
        return self.named(key) or UNKNOWN

    @property
    def copies_weights(self) -> bool:
        """Whether it is, or holds, a copy of a model's weights on their device."""
        if self.kind is Kind.STATE_DICT:
            return self.copied and not self.host
        parts = (*self.items, *((self.element,) if self.element is not None else ()))
        return self.kind in (Kind.TUPLE, Kind.CONTAINER, Kind.OBJECT) and any(part.copies_weights for part in parts)

    @property
    def guessed(self) -> bool:
        """Whether it, or a part of it, rests on a guess."""
        parts = (*self.items, *((self.element,) if self.element is not None else ()))
        return self.guess or any(part.guessed for part in parts)


_WITH_ITEMS = (Kind.TUPLE, Kind.OBJECT)

UNKNOWN = Value(Kind.UNKNOWN)
PLAIN = Value(Kind.PLAIN)
TENSOR = Value(Kind.TENSOR)
GRAPH = Value(Kind.GRAPH)
PARAMETER = Value(Kind.PARAMETER)
MODULE = Value(Kind.MODULE)


def join(first: Value, second: Value, depth: int = 0) -> Value:
    """What may be either of two values; a tensor with a graph wins over all else."""
    if first is second or first == second:
        return first
    if {first.kind, second.kind} == {Kind.CONTAINER, Kind.TUPLE}:
        held, pair = (first, second) if first.kind is Kind.CONTAINER else (second, first)
        return join(held, container(held.shape, join_all(pair.items)), depth + 1)
    if {first.kind, second.kind} == {Kind.GRAPH, Kind.TUPLE}:  # a loss, or a loss and more
        tensor, several = (first, second) if first.kind is Kind.GRAPH else (second, first)
        return replace(tensor, items=several.items)
    if first.kind is not second.kind:
        for kind in _STRENGTH:
            if first.kind is kind:
                return first
            if second.kind is kind:
                return second
        return UNKNOWN
    if depth > _DEPTH:
        return Value(first.kind)
    if first.kind is Kind.TUPLE:
        if len(first.items) == len(second.items):
            pairs = zip(first.items, second.items, strict=True)
            return replace(first, items=tuple(join(one, other, depth + 1) for one, other in pairs))
        return container("iterator", join_all((*first.items, *second.items)))
    classes = {first.cls, second.cls} - {None}
    differ = first.kind is Kind.MODULE and len(classes) == 2
    if differ or first.kind in (Kind.OBJECT, Kind.CLASS, Kind.FUNCTION):
        return _several(first, second, depth)
    if first.kind is Kind.PLAIN:
        both = tuple(dict.fromkeys((*first.names, *second.names)))
        return replace(PLAIN, names=both if first.names and second.names and len(both) <= _NAMES else ())
    element = first.element if second.element is None else second.element
    if first.element is not None and second.element is not None:
        element = join(first.element, second.element, depth + 1)
    names, items = _joined_names(first, second, depth)
    return replace(
        first,
        scalar=first.scalar and second.scalar,
        host=first.host and second.host,
        guess=first.guess and second.guess,
        frozen=first.frozen or second.frozen,
        loss=first.loss or second.loss,
        output=first.output or second.output,
        weights=first.weights and second.weights,
        activation=first.activation or second.activation,
        gradient=first.gradient and second.gradient,
        evaluating=first.evaluating and second.evaluating,
        copied=first.copied or second.copied,
        bounded=first.bounded or second.bounded,
        shape=first.shape or second.shape,
        cls=first.cls or second.cls,
        names=names,
        items=items if names else first.items or second.items,
        element=element,
    )


def _several(first: Value, second: Value, depth: int) -> Value:
    """What may be any of several objects, classes, or functions."""
    found: dict[object, Value] = {}
    for value in (*first.alternatives, *second.alternatives):
        identity = value.cls if value.function is None else value.function
        known = found.get(identity)
        if known is None:
            found[identity] = value
        elif known != value and value.kind is Kind.OBJECT:
            names, items = _joined_names(known, value, depth)
            found[identity] = replace(known, names=names, items=items, derived=known.derived or value.derived)
    main, *others = sorted(found.values(), key=lambda value: value.frozen)
    return replace(main, others=tuple(others[: _ALTERNATIVES - 1]))


def _joined_names(first: Value, second: Value, depth: int) -> tuple[tuple[str, ...], tuple[Value, ...]]:
    """Names that either of two values has, and what each may stand for."""
    if not first.names and not second.names:
        return (), first.items or second.items
    names = tuple(dict.fromkeys((*first.names, *second.names)))
    if len(names) > _NAMES:
        return (), ()

    def of(name: str) -> Value:
        """What either has under a name; what it may have under any name is left out."""
        pair = [value for item in (first, second) if (value := item.named(name)) is not None]
        return join(pair[0], pair[1], depth + 1) if len(pair) == 2 else pair[0]

    return names, tuple(of(name) for name in names)


_STRENGTH = (
    Kind.GRAPH,
    Kind.MODULE,
    Kind.CONTAINER,
    Kind.TUPLE,
    Kind.STATE_DICT,
    Kind.OPTIMIZER,
    Kind.LOADER,
    Kind.PARAMETER,
    Kind.TENSOR,
    Kind.OBJECT,
    Kind.CLASS,
    Kind.FUNCTION,
    Kind.PLAIN,
    Kind.UNKNOWN,
)
"""Which kind is kept where two meet: `total = 0` and then `total += loss` is a tensor with a graph."""


def join_all(values: Iterable[Value]) -> Value:
    """The join of several values; UNKNOWN of none."""
    result: Value | None = None
    for value in values:
        result = value if result is None else join(result, value)
    return result or UNKNOWN


def container(shape: str, element: Value | None = None, *, bounded: bool = False) -> Value:
    """A container of a shape with an element."""
    return Value(Kind.CONTAINER, shape=shape, element=_cut(element, 0), bounded=bounded)


def dictionary(entries: Mapping[str, Value], others: Iterable[Value] = ()) -> Value:
    """A dictionary with entries that are known by their keys, and others that may be under any key."""
    loose = list(others)
    both = container("dict", join_all((*entries.values(), *loose)) if entries or loose else None)
    if loose or not 0 < len(entries) <= _NAMES:
        return both
    return replace(both, names=tuple(entries), items=tuple(_cut(item, 0) or UNKNOWN for item in entries.values()))


def with_entry(held: Value, key: str | None, value: Value) -> Value:
    """A container after `held[key] = value`; without a key, none of the entries that are known is taken to be meant."""
    value = _cut(value, 0) or UNKNOWN
    element = value if held.element is None else join(held.element, value)
    after = replace(held, element=_cut(element, 0))
    if held.shape != "dict" or (held.element is not None and not held.names):
        return after
    if key is None:
        return after
    entries = {**dict(zip(held.names, held.items, strict=True)), key: value}
    if len(entries) > _NAMES:
        return replace(after, names=(), items=())
    return replace(after, names=tuple(entries), items=tuple(entries.values()))


def _cut(value: Value | None, depth: int) -> Value | None:
    """Keeps containers in containers finite."""
    if value is None or (value.element is None and not value.items and not value.others):
        return value
    if depth >= _DEPTH:
        return UNKNOWN
    return replace(
        value,
        others=tuple(_cut(item, depth) or UNKNOWN for item in value.others),
        element=_cut(value.element, depth + 1),
        items=tuple(_cut(item, depth + 1) or UNKNOWN for item in value.items),
    )


def element_of(value: Value) -> Value:
    """What iterating over a value gives."""
    if value.kind is Kind.TUPLE:
        return join_all(value.items)
    if value.kind in (Kind.CONTAINER, Kind.LOADER):
        return value.element or UNKNOWN
    if value.kind in (Kind.GRAPH, Kind.TENSOR, Kind.PARAMETER):
        return replace(value, scalar=False, kind=Kind.GRAPH if value.has_graph else Kind.TENSOR)
    if value.kind is Kind.STATE_DICT:
        return PLAIN
    if value.kind is Kind.MODULE:  # ModuleList, Sequential
        layer = value.element or MODULE
        return replace(layer, frozen=layer.frozen or value.frozen, guess=value.guess)
    return UNKNOWN


def turn_of(value: Value) -> Value:
    """What a loop over a value gives; keys of a dictionary are no tensors."""
    return PLAIN if value.kind is Kind.CONTAINER and value.shape == "dict" else element_of(value)


def unpack(value: Value, count: int) -> list[Value]:
    """The values of `a, b, ... = value`."""
    if value.kind in (Kind.TUPLE, Kind.GRAPH, Kind.OBJECT) and len(value.items) == count:
        return list(value.items)
    if value.guess and value.scalar:  # a loss by its name, and with it what goes into a log
        return [value] + [UNKNOWN] * (count - 1)
    return [element_of(value)] * count

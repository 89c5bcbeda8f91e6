"""What expressions are worth: tensors with a graph or without, modules, containers.

Each expression is given a `Value` from what is known of the names in it. Where the source does not tell,
the answer is UNKNOWN, and nothing is ever found about it.
"""

from __future__ import annotations

import ast
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace

from memprof.lint.names import is_constant, is_constant_text, path_of, text_of
from memprof.lint.scope import Scope, definition
from memprof.lint.values import (
    MODULE,
    PARAMETER,
    PLAIN,
    TENSOR,
    UNKNOWN,
    Kind,
    Value,
    container,
    dictionary,
    element_of,
    join,
    join_all,
    turn_of,
)
from memprof.lint.vocabulary import guess


class ExpressionReader(Scope):
    """Values of expressions in one function, at one point of it."""

    @abstractmethod
    def call(self, node: ast.Call) -> Value:
        """Value of a call."""

    @abstractmethod
    def returned(self, value: Value) -> None:
        """Take note of what the function gives back."""

    def value(self, node: ast.expr | None) -> Value:
        """Value of an expression, noted down."""
        if node is None:
            return PLAIN
        reader = _READERS.get(type(node))
        found = reader(self, node) if reader is not None else UNKNOWN
        self.knowledge.values[node] = found
        return found

    # ---- names -------------------------------------------------------------------------------

    def _name(self, node: ast.Name) -> Value:
        return self.lookup(node.id)

    def _attribute(self, node: ast.Attribute) -> Value:
        path = path_of(node)
        if path in self.env:
            return self.env[path]
        found = self._attribute_of(node, path)
        return found if path.partition(".")[0] in self.function.arguments else self.brought(found)

    def _attribute_of(self, node: ast.Attribute, path: str) -> Value:
        base = self.value(node.value)
        if base.is_tensor:
            return self._tensor_attribute(base, node.attr)
        if base.kind is Kind.TUPLE and base.named(node.attr) is not None:
            return base.named(node.attr) or UNKNOWN
        if (
            base.kind is Kind.TUPLE and base.items and all(item.is_tensor for item in base.items)
        ):  # `x.max(dim=1).values`
            return base.items[-1] if node.attr == "indices" else base.items[0]
        member = self.member(base, node.attr)
        if member is not None:
            return member
        if base.kind is Kind.MODULE:
            return self._module_attribute(base, node.attr)
        if base.kind is Kind.UNKNOWN and node.attr in ("shape", "ndim", "dtype"):
            return PLAIN
        if base.kind is Kind.UNKNOWN:
            found = self.program.find(self.module.qualified(node), self.module)
            if found is not None:
                return definition(found)
            root = path.partition(".")[0]
            if root not in self.module.imports and root not in _SETTINGS:
                return guess(node.attr)
        return UNKNOWN

    def member(self, base: Value, name: str) -> Value | None:
        """An attribute or a method of an object or a module of the program; None where its class has none."""
        found = [self._member_of(one, name) for one in base.alternatives if one.kind in (Kind.OBJECT, Kind.MODULE)]
        known = [value for value in found if value is not None]
        return join_all(known) if known else None

    def _member_of(self, base: Value, name: str) -> Value | None:
        if base.cls is None:
            return None
        known, given = self.program.attribute(base.cls, name), base.named(name)
        if given is not None:
            return given if known is None else join(given, known)
        if known is not None:
            return replace(known, frozen=True) if base.frozen and known.kind is Kind.MODULE else known
        derived = self.program.derived(base.cls) if base.derived else []
        methods = [self.program.method(base.cls, name), *(cls.methods.get(name) for cls in derived)]
        found = [
            method.returns if "property" in method.decorators else Value(Kind.FUNCTION, function=method)
            for method in methods
            if method is not None
        ]
        if not found:
            found = [cls.attributes[name] for cls in derived if name in cls.attributes]
        return join_all(found) if found else None

    def _tensor_attribute(self, base: Value, name: str) -> Value:
        if name in ("data", "grad"):
            return replace(base, kind=Kind.TENSOR, output=False)
        if name in ("T", "mT", "H", "mH", "real", "imag"):
            return base
        if name in _TENSOR_PROPERTIES:
            return PLAIN
        if base.output:  # a result with fields: `outputs.loss`
            return replace(base, scalar=name == "loss", guess=base.guess or name not in _FIELDS)
        return UNKNOWN

    def _module_attribute(self, base: Value, name: str) -> Value:
        if name == "module":
            return base
        if name in ("weight", "bias"):
            return TENSOR if base.frozen else PARAMETER
        if name in ("training", "device", "dtype"):
            return PLAIN
        found = guess(name)
        if (found.kind is Kind.MODULE and not found.loss) or (base.cls is None and name in _PARTS):
            return replace(MODULE, guess=base.guess, frozen=base.frozen, evaluating=base.evaluating)
        return found

    # ---- literals ----------------------------------------------------------------------------

    def _constant(self, node: ast.expr) -> Value:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
        text = text_of(node) or ""
        return replace(PLAIN, names=(text,)) if text.isidentifier() else PLAIN

    def _formatted(self, node: ast.JoinedStr) -> Value:
        """`f"on_{event}"` is known where `event` is."""
        texts: tuple[str, ...] = ("",)
        for part in node.values:
            known = self.value(part.value if isinstance(part, ast.FormattedValue) else part).names
            text = text_of(part)
            more = (text,) if text is not None else known
            texts = tuple(before + after for before in texts for after in more)[:_TEXTS]
        return replace(PLAIN, names=texts if all(text.isidentifier() for text in texts) else ())

    def _list(self, node: ast.List | ast.Set) -> Value:
        shape = "list" if isinstance(node, ast.List) else "set"
        items = [self.value(item) for item in node.elts]
        return container(shape, join_all(items) if items else None)

    def _tuple(self, node: ast.Tuple) -> Value:
        return Value(Kind.TUPLE, items=tuple(self.value(item) for item in node.elts))

    def _dict(self, node: ast.Dict) -> Value:
        for key in node.keys:
            if key is not None:
                self.value(key)
        entries: dict[str, Value] = {}
        others: list[Value] = []
        for key, item in zip(node.keys, node.values, strict=True):
            value, text = self.value(item), text_of(key)
            if text is not None:
                entries[text] = value
            elif key is None and value.names and value.kind is Kind.CONTAINER:  # {**losses, ...}
                entries.update(zip(value.names, value.items, strict=True))
            elif key is not None:
                others.append(value)
            elif value.element is not None or value.kind is not Kind.CONTAINER:
                others.append(element_of(value))
        return dictionary(entries, others)

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Value:
        before = dict(self.env)
        for generator in node.generators:
            self.bind(generator.target, turn_of(self.value(generator.iter)))
            for condition in generator.ifs:
                self.value(condition)
        if isinstance(node, ast.DictComp):
            self.value(node.key)
            result = container("dict", self.value(node.value))
            if self._copies_weights(node):
                result = Value(Kind.STATE_DICT, copied=True)
        else:
            shape = {ast.ListComp: "list", ast.SetComp: "set"}.get(type(node), "iterator")
            result = container(shape, self.value(node.elt))
        self.env = before
        return result

    def _copies_weights(self, node: ast.DictComp) -> bool:
        """`{name: weight.clone() for name, weight in model.state_dict().items()}`, not on the host."""
        source = node.generators[0].iter
        if not isinstance(source, ast.Call) or not isinstance(source.func, ast.Attribute):
            return False
        if self.knowledge.values.get(source.func.value, UNKNOWN).kind is not Kind.STATE_DICT:
            return False
        cloned = any(isinstance(item, ast.Attribute) and item.attr == "clone" for item in ast.walk(node.value))
        return cloned and not self.knowledge.values[node.value].host

    def _lambda(self, node: ast.Lambda) -> Value:
        before = dict(self.env)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self.env[argument.arg] = UNKNOWN
        self.value(node.body)
        self.env = before
        return UNKNOWN

    # ---- operators ---------------------------------------------------------------------------

    def arithmetic(self, *operands: Value) -> Value:
        """What comes out of an operator, or of an op of torch, on some values."""
        tensors = [item for item in operands if item.is_tensor]
        with_graph = [item for item in tensors if item.kind is not Kind.TENSOR]
        if with_graph:
            return replace(
                self.graph(),
                scalar=all(item.scalar for item in tensors),
                host=all(item.host for item in tensors),
                guess=all(item.guess for item in with_graph),
                weights=all(item.weights or item.kind is Kind.PARAMETER for item in with_graph),
                activation=any(item.activation for item in tensors),
            )
        if any(item.kind is Kind.UNKNOWN for item in operands):
            return UNKNOWN
        if tensors:
            return Value(
                Kind.TENSOR,
                scalar=all(item.scalar for item in tensors),
                host=all(item.host for item in tensors),
                guess=any(item.guess for item in tensors),
                activation=any(item.activation for item in tensors),
            )
        return PLAIN if all(item.kind is Kind.PLAIN for item in operands) else UNKNOWN

    def _binary(self, node: ast.BinOp) -> Value:
        left, right = self.value(node.left), self.value(node.right)
        if left.kind is Kind.CONTAINER or right.kind is Kind.CONTAINER:
            if left.kind is right.kind and isinstance(node.op, (ast.Add, ast.BitOr)):
                return join(left, right)
            return left if left.kind is Kind.CONTAINER else right
        return self.arithmetic(left, right)

    def _unary(self, node: ast.UnaryOp) -> Value:
        operand = self.value(node.operand)
        return PLAIN if isinstance(node.op, ast.Not) else self.arithmetic(operand)

    def _compare(self, node: ast.Compare) -> Value:
        operands = [self.value(node.left), *(self.value(item) for item in node.comparators)]
        if all(isinstance(op, (ast.Is, ast.IsNot, ast.In, ast.NotIn)) for op in node.ops):
            return PLAIN
        tensors = [item for item in operands if item.is_tensor]
        if tensors:
            return Value(
                Kind.TENSOR, host=all(item.host for item in tensors), scalar=all(item.scalar for item in tensors)
            )
        return UNKNOWN if any(item.kind is Kind.UNKNOWN for item in operands) else PLAIN

    def _bool_op(self, node: ast.BoolOp) -> Value:
        return join_all([self.value(item) for item in node.values])

    def _if_expression(self, node: ast.IfExp) -> Value:
        self.value(node.test)
        before = dict(self.env)
        self.narrow(node.test, holds=True)
        positive = self.value(node.body)
        self.env = dict(before)
        self.narrow(node.test, holds=False)
        negative = self.value(node.orelse)
        self.env = before
        return join(positive, negative)

    def _subscript(self, node: ast.Subscript) -> Value:
        base = self.value(node.value)
        self.value(node.slice)
        if base.kind is Kind.TUPLE or (base.kind is Kind.OBJECT and base.items):
            index = node.slice.value if isinstance(node.slice, ast.Constant) else None
            if isinstance(index, int) and -len(base.items) <= index < len(base.items):
                return base.items[index]
            return base if isinstance(node.slice, ast.Slice) else join_all(base.items)
        if base.kind is Kind.CONTAINER:
            element = base.entry(text_of(node.slice))
            if is_constant_text(node.slice, "loss") and element.is_tensor:
                return replace(element, scalar=True)
            return base if isinstance(node.slice, ast.Slice) else element
        if base.kind is Kind.PLAIN and getattr(node.value, "attr", "") == "shape":
            return PLAIN
        if base.is_tensor and is_constant(node.slice, 0) and getattr(node.value, "attr", "") == "data":
            return PLAIN  # `loss.data[0]`, a number before PyTorch 0.4
        if base.is_tensor:
            scalar = base.output and isinstance(node.slice, ast.Constant) and node.slice.value == "loss"
            kind = Kind.TENSOR if base.kind is Kind.TENSOR or self.grad is False else Kind.GRAPH
            return replace(base, kind=kind, scalar=scalar)
        if base.kind is Kind.MODULE:
            layer = base.named(text_of(node.slice) or "") or element_of(base)
            return replace(layer, guess=base.guess, evaluating=base.evaluating)
        if base.kind is Kind.STATE_DICT:
            return replace(TENSOR, host=base.host)
        return UNKNOWN

    def _named(self, node: ast.NamedExpr) -> Value:
        found = self.value(node.value)
        self.bind(node.target, found)
        return found

    def _inside(self, node: ast.Await | ast.Starred) -> Value:
        return self.value(node.value)

    def _yield(self, node: ast.Yield | ast.YieldFrom) -> Value:
        found = self.value(node.value)
        self.returned(container("iterator", found if isinstance(node, ast.Yield) else element_of(found)))
        return UNKNOWN


_PARTS = frozenset("features classifier fc head avgpool layer1 layer2 layer3 layer4 conv1 bn1 stem".split())
"""What parts of models of torchvision and the like are called."""

_TEXTS = 12
"""How many texts a formatted one may be."""

_SETTINGS = frozenset("args cfg config opt opts options hparams flags params settings conf FLAGS".split())

_FIELDS = frozenset("loss logits hidden_states last_hidden_state pooler_output values indices".split())
"""Fields of results that are tensors for certain."""

_TENSOR_PROPERTIES = frozenset(
    "shape dtype device ndim layout names is_cuda is_leaf is_sparse requires_grad grad_fn itemsize nbytes".split()
)

_READERS: dict[type[ast.AST], Callable[..., Value]] = {
    ast.Name: ExpressionReader._name,
    ast.Attribute: ExpressionReader._attribute,
    ast.Call: lambda reader, node: reader.call(node),
    ast.Constant: ExpressionReader._constant,
    ast.JoinedStr: ExpressionReader._formatted,
    ast.FormattedValue: ExpressionReader._constant,
    ast.Slice: ExpressionReader._constant,
    ast.List: ExpressionReader._list,
    ast.Set: ExpressionReader._list,
    ast.Tuple: ExpressionReader._tuple,
    ast.Dict: ExpressionReader._dict,
    ast.ListComp: ExpressionReader._comprehension,
    ast.SetComp: ExpressionReader._comprehension,
    ast.GeneratorExp: ExpressionReader._comprehension,
    ast.DictComp: ExpressionReader._comprehension,
    ast.Lambda: ExpressionReader._lambda,
    ast.BinOp: ExpressionReader._binary,
    ast.UnaryOp: ExpressionReader._unary,
    ast.Compare: ExpressionReader._compare,
    ast.BoolOp: ExpressionReader._bool_op,
    ast.IfExp: ExpressionReader._if_expression,
    ast.Subscript: ExpressionReader._subscript,
    ast.NamedExpr: ExpressionReader._named,
    ast.Await: ExpressionReader._inside,
    ast.Starred: ExpressionReader._inside,
    ast.Yield: ExpressionReader._yield,
    ast.YieldFrom: ExpressionReader._yield,
}

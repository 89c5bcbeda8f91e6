"""What torch's functions and the methods of tensors give."""

from __future__ import annotations

import ast
from dataclasses import replace

from memprof.lint.expressions import ExpressionReader
from memprof.lint.names import is_constant, is_constant_text, keyword
from memprof.lint.values import (
    MODULE,
    PARAMETER,
    PLAIN,
    TENSOR,
    UNKNOWN,
    Kind,
    Value,
    container,
    element_of,
    join_all,
)
from memprof.lint.vocabulary import (
    BATCH,
    DETACHING_METHODS,
    DIFFERENTIABLE_METHODS,
    FACTORIES,
    MODULE_CONTAINERS,
    PAIR_METHODS,
    PASSING_FUNCTIONS,
    PLAIN_METHODS,
    REDUCTIONS,
    layer,
)

DISTRIBUTION = "distribution"
"""Shape of the objects that stand for those of torch.distributions."""

_NAMESPACES = ("torch.nn.functional.", "torch.linalg.", "torch.special.", "torch.fft.", "torch.")


class TorchReader(ExpressionReader):
    """Values of calls of torch."""

    def torch_call(self, node: ast.Call, name: str, arguments: list[Value], everything: list[Value]) -> Value | None:
        """What a function or class of torch, by its dotted name, gives; None where that is not known."""
        first = arguments[0] if arguments else UNKNOWN
        if name in PASSING_FUNCTIONS:
            return replace(first, copied=True) if first.kind is Kind.STATE_DICT else first
        if name == "torch.autograd.Variable":  # its argument, since PyTorch 0.4
            wanted = is_constant(keyword(node, "requires_grad"), True) and first.kind is not Kind.GRAPH
            return self.brought(PARAMETER) if wanted else first
        if name.startswith("torchvision.models."):
            return MODULE
        if name.startswith("torch.optim."):
            last = name.rpartition(".")[2]
            return Value(Kind.OPTIMIZER) if last[:1].isupper() and "lr_scheduler" not in name else UNKNOWN
        if name == "torch.utils.data.DataLoader":
            return Value(Kind.LOADER, element=replace(BATCH, guess=False))
        if name in ("torch.nn.Parameter", "torch.nn.parameter.Parameter"):
            return self.brought(PARAMETER)
        if name == "torch.autograd.grad":
            create = keyword(node, "create_graph")
            kept = create is not None and not is_constant(create, False)
            return container("iterator", replace(self.graph() if kept else TENSOR, gradient=True))
        if name.startswith("torch.distributions."):
            return self._distribution(name.rpartition(".")[2], everything)
        if name == "torch.set_grad_enabled":
            self._set_grad(node)
            return UNKNOWN
        if name.startswith("torch.nn.utils.clip_grad"):
            return replace(TENSOR, scalar=True)
        last = name.rpartition(".")[2]
        if name.startswith("torch.nn.") and last[:1].isupper():
            return self._with_layers(last, arguments) if last in MODULE_CONTAINERS else layer(last)
        if name.startswith(("torch.cuda.", "torch.distributed.", "torch.utils.", "torch.nn.init.", "torch.backends.")):
            return UNKNOWN
        for namespace in _NAMESPACES:
            if name.startswith(namespace) and "." not in name[len(namespace) :]:
                return self._function(node, last, arguments, everything)
        return None

    def _with_layers(self, name: str, arguments: list[Value]) -> Value:
        """A `Sequential` or the like of the modules it is given."""
        made = layer(name)
        given = arguments[0] if arguments else UNKNOWN
        known = [item if item.kind is Kind.MODULE else element_of(item) for item in arguments]
        modules = [item for item in known if item.kind is Kind.MODULE]
        if not modules:
            return made
        inner = join_all(modules)
        whole = all(item.kind is Kind.MODULE and item.frozen for item in arguments)  # a list may hold others as well
        keyed = given.kind is Kind.CONTAINER and given.shape == "dict"
        return replace(
            made,
            frozen=whole,
            element=replace(inner, frozen=whole),
            names=given.names if keyed else (),
            items=given.items if keyed else (),
        )

    def _distribution(self, name: str, given: list[Value]) -> Value:
        """A distribution holds its parameters; a divergence of two is made from both."""
        tensors = tuple(tensor for item in given for tensor in item.tensors)
        if name[:1].isupper():
            return Value(Kind.OBJECT, shape=DISTRIBUTION, items=tensors)
        return self.arithmetic(*tensors) if tensors else UNKNOWN

    def distribution_method(self, base: Value, name: str, arguments: list[Value]) -> Value:
        """What a method of a distribution gives: samples have no graph, densities have that of its parameters."""
        if name == "sample" and base.items:
            return self.without_graph(self.arithmetic(*base.items))
        if name in ("log_prob", "entropy", "rsample", "cdf", "icdf") and base.items:
            return self.arithmetic(*base.items, *(item for item in arguments if item.is_tensor))
        return UNKNOWN

    def _set_grad(self, node: ast.Call) -> None:
        """A bare `torch.set_grad_enabled(...)`, which holds until it is called again."""
        if isinstance(self.module.parents.get(node), ast.Expr) and node.args:
            argument = node.args[0]
            self.grad = argument.value is True if isinstance(argument, ast.Constant) else None
            if self.grad is False and self.function is self.module.body:
                self.knowledge.grad_off = True

    def _function(self, node: ast.Call, name: str, arguments: list[Value], everything: list[Value]) -> Value:
        """A function of torch or torch.nn.functional on tensors."""
        if name in FACTORIES:
            if is_constant(keyword(node, "requires_grad"), True):
                return self.brought(PARAMETER)
            device = keyword(node, "device")
            on_host = device is None and not name.endswith("_like")
            return replace(TENSOR, host=on_host or is_constant_text(device, "cpu"))
        if name in ("is_tensor", "is_grad_enabled", "device", "load", "save", "manual_seed", "compile", "dtype"):
            return UNKNOWN if name == "load" else PLAIN
        if name in DETACHING_METHODS:
            return replace(TENSOR, host=all(item.host for item in arguments if item.is_tensor))
        tensors = [tensor for item in arguments for tensor in ([item] if item.is_tensor else item.tensors)]
        if not tensors and any(item.kind is Kind.UNKNOWN for item in everything):
            return UNKNOWN
        known = [item for item in everything if item.kind is not Kind.CONTAINER and item.kind is not Kind.TUPLE]
        result = self.arithmetic(*tensors, *known) if tensors else self.arithmetic(*known)
        if not result.is_tensor:
            return result
        if name.endswith(("_loss", "cross_entropy", "_div")) or name in ("cross_entropy", "l1_loss", "mse_loss"):
            reduction = keyword(node, "reduction")
            return replace(result, scalar=not is_constant_text(reduction, "none"))
        if name in PAIR_METHODS and (len(arguments) > 1 or node.keywords):
            if len(arguments) > 1 and arguments[1].is_tensor:
                return result
            return Value(Kind.TUPLE, items=(result, replace(TENSOR, host=result.host)))
        if name in REDUCTIONS:
            return replace(result, scalar=len(node.args) == 1 and not node.keywords)
        return replace(result, scalar=result.scalar and name not in ("cat", "concat", "stack", "hstack", "vstack"))

    def tensor_method(self, node: ast.Call, base: Value, name: str, arguments: list[Value]) -> Value:
        """What a method of a tensor gives."""
        if name in ("values", "items", "keys", "get", "pop", "to_tuple"):  # of what holds tensors, then
            part = replace(base, output=True)
            if name == "items":
                return container("iterator", Value(Kind.TUPLE, items=(PLAIN, part)))
            return container("iterator", part) if name in ("values", "to_tuple") else part
        if name in PLAIN_METHODS:
            if name == "requires_grad_":
                return base if base.kind is Kind.GRAPH else self.brought(PARAMETER)
            return PLAIN
        if name in DETACHING_METHODS:
            return replace(base, kind=Kind.TENSOR, output=False)
        if name == "cpu":
            return replace(base, host=True, output=False)
        if name == "to" and any(_is_integer(item) for item in (*node.args, *(one.value for one in node.keywords))):
            return replace(base, kind=Kind.TENSOR, output=False)
        if name in ("to", "cuda"):
            to_host = bool(node.args) and is_constant_text(node.args[0], "cpu")
            return replace(base, host=to_host or (base.host and name == "to" and _is_dtype(node)))
        if base.output and not base.scalar and name.rstrip("_") not in DIFFERENTIABLE_METHODS:
            return UNKNOWN  # it may be any object: `graph.num_nodes()`
        result = self.arithmetic(replace(base, output=False), *(item for item in arguments if item.is_tensor))
        if name in PAIR_METHODS and (arguments or node.keywords):
            return Value(Kind.TUPLE, items=(result, replace(TENSOR, host=result.host)))
        if name in REDUCTIONS:
            return replace(result, scalar=not node.args and not node.keywords)
        if name in ("clone", "contiguous", "float", "double", "half", "squeeze", "view", "reshape", "flatten"):
            return replace(base, kind=result.kind, output=False, weights=result.weights)
        if name in ("split", "chunk", "unbind"):
            return container("iterator", result)
        return result


def _is_integer(node: ast.expr) -> bool:
    """Whether an argument is a type whose tensors have no graph: `torch.uint8`."""
    return isinstance(node, ast.Attribute) and node.attr in _INTEGERS


_INTEGERS = frozenset("uint8 int8 int16 int32 int64 short int long bool".split())


def _is_dtype(node: ast.Call) -> bool:
    return len(node.args) == 1 and isinstance(node.args[0], ast.Attribute) and "device" not in node.args[0].attr

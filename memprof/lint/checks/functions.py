"""Custom autograd functions and cached functions that keep tensors: MP108, MP111."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from memprof.lint.context import Context, shown, sure
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside, is_constant, path_of
from memprof.lint.program import ClassInfo, FunctionInfo
from memprof.lint.values import Kind

_CACHES = frozenset(("functools.lru_cache", "functools.cache", "lru_cache", "cache", "cachetools.cached"))
_TENSOR_METHODS = frozenset(
    "size dim view reshape permute transpose clone detach contiguous unsqueeze squeeze expand new_zeros new_empty exp "
    "log sigmoid tanh clamp sum mean pow mul add sub div matmul mm t numel neg sqrt abs relu".split()
)
_TENSOR_FUNCTION = re.compile(
    r"torch\.(?:nn\.functional\.|linalg\.|special\.|fft\.)?(?!is_|get_|set_|device$|dtype$|finfo$|iinfo$|load$)[a-z]\w*"
)
"""Functions of torch that make tensors, by their dotted names."""

_TENSOR_NAMES = frozenset("input x inputs tensor weight".split())


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for cls in context.program.classes:
        if "torch.autograd.Function" in context.program.base_names(cls) or "Function" in cls.bases:
            yield from _on_context(context, cls)
    for function in context.program.functions:
        if _CACHES & set(function.decorators):
            yield from _cached(context, function)
        yield from _dict_keys(context, function)


# ---- MP108 -----------------------------------------------------------------------------------


def _on_context(context: Context, cls: ClassInfo) -> Iterator[LintFinding]:
    forward = cls.methods.get("forward")
    if forward is None or isinstance(forward.node, ast.Module):
        return
    used = _used_as_tensors(cls)
    known: set[str] = set()
    for method in (forward, cls.methods.get("setup_context")):
        if method is None or isinstance(method.node, ast.Module):
            continue
        parameters = [*method.node.args.posonlyargs, *method.node.args.args]
        apart = "setup_context" in cls.methods
        names = parameters if method is forward and apart else parameters[1:]
        if method is forward:
            known = _tensors(context, method, names)
        tensors = known | _tensors(context, method, [])
        ctx = parameters[0].arg if parameters and not (method is forward and apart) else ""
        yield from _stored(context, method, ctx, tensors, used, _without_gradient(cls, forward))


def _without_gradient(cls: ClassInfo, forward: FunctionInfo) -> set[str]:
    """Inputs that `backward` gives no gradient, such as labels: they have no graph, and their owner keeps them."""
    backward = cls.methods.get("backward")
    gradients = [
        item.value.elts if isinstance(item.value, ast.Tuple) else [item.value]
        for item in (backward.statements if backward is not None else ())
        if isinstance(item, ast.Return) and item.value is not None
    ]
    own = 0 if "setup_context" in cls.methods or forward.takes_self else 1  # the context
    return {
        item.arg
        for number, item in enumerate(forward.parameters[own:])
        if gradients and all(len(given) > number and is_constant(given[number], None) for given in gradients)
    }


def _stored(
    context: Context, method: FunctionInfo, ctx: str, tensors: set[str], used: set[str], plain: set[str]
) -> Iterator[LintFinding]:
    """Assignments of tensors to attributes of the context."""
    for statement in method.statements:
        if not isinstance(statement, ast.Assign):
            continue
        for target in statement.targets:
            if not isinstance(target, ast.Attribute) or not ctx or path_of(target.value) != ctx:
                continue
            value = statement.value
            parts = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value]
            if target.attr not in used and not any(_made_of(method, part, tensors) for part in parts):
                continue
            if isinstance(value, ast.Attribute) and value.attr in ("shape", "dtype", "device"):
                continue
            if all(_is_detached(part) for part in parts):
                continue  # it has no graph, on purpose
            message = (
                f"`{ctx}.{target.attr}` keeps `{shown(value, 30)}` outside of what autograd knows: if it is an output "
                "or has a graph, the two hold each other until the garbage collector comes. Use "
                f"`{ctx}.save_for_backward(...)`."
            )
            confidence = Confidence.LOW if {path_of(part) for part in parts} <= plain else Confidence.MEDIUM
            yield context.finding(method, statement, "MP108", message, "save_for_backward", confidence)


def _is_detached(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "detach"


def _used_as_tensors(cls: ClassInfo) -> set[str]:
    """Attributes of the context that `backward` calls methods of tensors on."""
    backward = cls.methods.get("backward")
    if backward is None or isinstance(backward.node, ast.Module) or not backward.node.args.args:
        return set()
    ctx = backward.node.args.args[0].arg
    return {
        call.func.value.attr
        for call in backward.calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in _TENSOR_METHODS
        and isinstance(call.func.value, ast.Attribute)
        and path_of(call.func.value.value) == ctx
    }


def _tensors(context: Context, method: FunctionInfo, parameters: list[ast.arg]) -> set[str]:
    """Names in a method that are tensors for certain."""
    found = {
        parameter.arg
        for parameter in parameters
        if (parameter.annotation is not None and ast.unparse(parameter.annotation).endswith("Tensor"))
        or (parameter.annotation is None and parameter.arg in _TENSOR_NAMES)
        or context.value_of_parameter(method, parameter.arg).is_tensor
    }
    names = {parameter.arg for parameter in parameters}
    for item in (node for statement in method.body for node in inside(statement)):
        if isinstance(item, ast.Attribute) and item.attr in _TENSOR_METHODS and path_of(item.value) in names:
            found.add(path_of(item.value))
        elif isinstance(item, ast.BinOp) and isinstance(item.op, ast.MatMult):
            found |= {path_of(item.left), path_of(item.right)}
        elif isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute):
            if item.func.attr in ("save_for_backward", "mark_dirty", "mark_non_differentiable"):
                found |= {path_of(argument) for argument in item.args}
    for _ in range(3):
        for statement in method.statements:
            if isinstance(statement, ast.Assign) and _made_of(method, statement.value, found):
                found |= {path_of(target) for target in statement.targets if isinstance(target, ast.Name)}
    return found - {""}


def _made_of(function: FunctionInfo, node: ast.expr, tensors: set[str]) -> bool:
    """Whether an expression is a tensor because it is computed by torch or from tensors."""
    if isinstance(node, ast.Call):
        name = function.module.qualified(node.func)
        if name.startswith("torch."):
            return _TENSOR_FUNCTION.fullmatch(name) is not None
        if isinstance(node.func, ast.Attribute) and path_of(node.func.value) in tensors:
            return node.func.attr in _TENSOR_METHODS - {"size", "dim", "numel"}
        return False
    if isinstance(node, ast.BinOp):
        return _made_of(function, node.left, tensors) or _made_of(function, node.right, tensors)
    if isinstance(node, ast.UnaryOp):
        return _made_of(function, node.operand, tensors)
    return isinstance(node, ast.Name) and node.id in tensors


# ---- MP111 -----------------------------------------------------------------------------------


def _cached(context: Context, function: FunctionInfo) -> Iterator[LintFinding]:
    for parameter in function.parameters:
        annotated = parameter.annotation is not None and ast.unparse(parameter.annotation).endswith("Tensor")
        passed = [context.flow.argument(function, site.call, parameter.arg) for site in function.sites]
        if not annotated and parameter.annotation is not None:
            continue  # it says that it is something else
        if not annotated and not (passed and all(_is_tensor(context, item) for item in passed)):
            continue
        decorator = next(item for item in function.decorators if item in _CACHES).rpartition(".")[2]
        message = (
            f"`@{decorator}` keeps every tensor that `{function.name}` was called with, and what it returned: a tensor "
            "equals only itself as a key, so the cache never hits. Cache by a number or a string."
        )
        assert not isinstance(function.node, ast.Module)
        node = function.node.decorator_list[0]
        confidence = Confidence.HIGH if annotated else sure(*(context.value(item) for item in passed))
        yield context.finding(function, node, "MP111", message, "bound_container", confidence)
        return


def _keyed_by(context: Context, function: FunctionInfo, key: ast.expr) -> ast.expr | None:
    """The tensor that a key is, or is made from: `x`, `id(x)`, `x.data_ptr()`, `(x, step)`."""
    if isinstance(key, ast.Tuple):
        return next((found for part in key.elts if (found := _keyed_by(context, function, part)) is not None), None)
    if isinstance(key, ast.Call):
        if function.module.qualified(key.func) == "id" and key.args:
            key = key.args[0]
        elif isinstance(key.func, ast.Attribute) and key.func.attr == "data_ptr":
            key = key.func.value
    return key if _is_tensor(context, key) else None


def _is_tensor(context: Context, node: ast.expr | None) -> bool:
    """Whether an expression is a tensor, and not only called like one."""
    value = context.value(node)
    return value.is_tensor and not (value.guessed and value.output)


def _dict_keys(context: Context, function: FunctionInfo) -> Iterator[LintFinding]:
    """`cache[x] = ...`, `cache[id(x)] = ...` with a tensor x."""
    for statement in function.statements:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Subscript):
            continue
        target = statement.targets[0]
        holder = context.value(target.value)
        if holder.kind is not Kind.CONTAINER or holder.shape != "dict":
            continue
        key = _keyed_by(context, function, target.slice)
        if key is None or context.value(key).scalar or _is_entry(context, function, key):
            continue
        if context.flow.outlives(function, target, statement) is None:
            continue
        around = context.flow.iteration_loop(function, statement)
        if context.flow.emptied(function, target, around[0] if around is not None else None) is not None:
            continue
        message = (
            f"`{shown(target.value)}` is keyed by the tensor `{shown(key, 30)}`, which equals only itself: it never "
            "hits and keeps an entry for every iteration. Key it by what the tensor was made from."
        )
        yield context.finding(function, statement, "MP111", message, "bound_container", sure(context.value(key)))


def _is_entry(context: Context, function: FunctionInfo, key: ast.expr) -> bool:
    """Whether a key comes from going over something that is, or may be, a dictionary."""
    for loop in function.module.loops_of(key):
        if isinstance(loop, (ast.For, ast.AsyncFor)) and path_of(loop.target) == path_of(key):
            looked_up = any(
                isinstance(item, ast.Subscript)
                and path_of(item.value) == path_of(loop.iter) != ""
                and path_of(item.slice) == path_of(key)
                for item in inside(loop)
            )
            if looked_up or context.value(loop.iter).output:
                return True
    return False

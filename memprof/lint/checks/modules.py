"""Layers that a module does not see, and modules and optimizers that grow: MP403, MP114, MP115."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.checks.switches import is_conditional
from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside, path_of
from memprof.lint.program import ClassInfo, FunctionInfo
from memprof.lint.values import Kind

_REGISTERING = frozenset("add_module register_module setattr __setattr__ register_parameter".split())


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for cls in context.program.classes:
        if context.program.is_module_class(cls):
            yield from _hidden(context, cls)
    yield from _growing(context)


# ---- MP403 -----------------------------------------------------------------------------------


def _hidden(context: Context, cls: ClassInfo) -> Iterator[LintFinding]:
    start = cls.methods.get("__init__")
    if start is None:
        return
    registering = any(
        isinstance(item, ast.Attribute | ast.Name)
        and (item.attr if isinstance(item, ast.Attribute) else item.id) in _REGISTERING
        for item in ast.walk(cls.node)
    )
    if registering:
        return
    for attribute, node in _kept(context, start).items():
        if _is_registered(context, cls, attribute, node):
            continue
        message = (
            f"`self.{attribute}` is a plain Python {context.value(node).shape or 'container'} of layers: "
            "`parameters()`, `to()`, and `state_dict()` do not see them. Use `nn.ModuleList`, `nn.ModuleDict`, or "
            "`nn.ParameterList`."
        )
        statement = start.module.statement_of(node)
        yield context.finding(start, statement or node, "MP403", message, "register_module")


def _kept(context: Context, start: FunctionInfo) -> dict[str, ast.expr]:
    """Attributes of plain containers whose layers are made in place, and the expression that holds them."""
    own = start.self_name
    found: dict[str, ast.expr] = {}
    for statement in start.statements:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Attribute) and path_of(target.value) == own:
                if isinstance(statement.value, (ast.List, ast.Dict, ast.ListComp, ast.DictComp, ast.Tuple)):
                    if _makes_layers(context, statement.value) or _appended(context, start, f"{own}.{target.attr}"):
                        found[target.attr] = statement.value
    return found


def _makes_layers(context: Context, node: ast.expr) -> bool:
    parts: list[ast.expr] = []
    if isinstance(node, (ast.List, ast.Tuple)):
        parts = list(node.elts)
    elif isinstance(node, ast.Dict):
        parts = list(node.values)
    elif isinstance(node, ast.ListComp):
        parts = [node.elt]
    elif isinstance(node, ast.DictComp):
        parts = [node.value]
    return any(_is_new_layer(context, part) for part in parts)


def _is_new_layer(context: Context, node: ast.expr) -> bool:
    """A call that makes a module with parameters, or a parameter."""
    if not isinstance(node, ast.Call):
        return False
    value = context.value(node)
    made = context.value(node.func).kind
    if value.kind is Kind.MODULE:
        return not value.frozen and not value.guess and made is not Kind.MODULE and not _is_method(node)
    return value.kind is Kind.PARAMETER and not _is_method(node)


def _is_method(node: ast.Call) -> bool:
    """`layer.to(device)` makes nothing."""
    return isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "cuda", "cpu", "eval", "train", "apply")


def _appended(context: Context, start: FunctionInfo, path: str) -> bool:
    return any(
        isinstance(call.func, ast.Attribute)
        and call.func.attr == "append"
        and path_of(call.func.value) == path
        and any(_is_new_layer(context, argument) for argument in call.args)
        for call in start.calls
    )


def _is_registered(context: Context, cls: ClassInfo, attribute: str, node: ast.expr) -> bool:
    """Whether the container's layers become part of the module in another way."""
    for method in cls.methods.values():
        for item in (part for statement in method.body for part in inside(statement)):
            if isinstance(item, ast.Call) and context.value(item).kind is Kind.MODULE:
                for argument in item.args:
                    inner = argument.value if isinstance(argument, ast.Starred) else argument
                    if path_of(inner) == f"{method.self_name}.{attribute}":
                        return True
            if isinstance(item, ast.Assign) and item.value is not node:
                if any(path_of(target) == f"{method.self_name}.{attribute}" for target in item.targets):
                    return True
    return False


# ---- MP114, MP115 ----------------------------------------------------------------------------


def _growing(context: Context) -> Iterator[LintFinding]:
    for function in context.program.functions:
        for call in function.calls:
            if not isinstance(call.func, ast.Attribute):
                continue
            around = context.flow.iteration_loop(function, call)
            if around is None or around[1] != "training" or is_conditional(function, call):
                continue
            if not context.flow.is_innermost(around[0]):
                continue  # once an epoch, or a stage
            name, holder = call.func.attr, call.func.value
            if name == "add_param_group":
                message = (
                    f"`{shown(holder)}` is given another parameter group in every iteration; groups and the state of "
                    "their parameters stay. Add it once, before the loop."
                )
                yield context.finding(function, call, "MP114", message, "bound_container", Confidence.MEDIUM)
            elif name in ("append", "add_module", "register_module") and context.value(holder).kind is Kind.MODULE:
                if call.args and _is_new_layer(context, call.args[-1]):
                    message = (
                        f"`{shown(holder)}` is given another layer in every iteration, which stays with its gradients "
                        "and its optimizer state. Add it once, before the loop."
                    )
                    yield context.finding(function, call, "MP115", message, "bound_container", Confidence.MEDIUM)

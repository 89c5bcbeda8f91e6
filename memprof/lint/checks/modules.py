"""Layers that a module does not see, and modules and optimizers that grow: MP403, MP114, MP115."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.checks.containers import is_new_key
from memprof.lint.checks.switches import called_in_iterations, is_conditional
from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import base_of, inside, is_constant_text, path_of
from memprof.lint.program import ClassInfo, FunctionInfo
from memprof.lint.values import Kind

_GROWING = frozenset("add_param_group append add add_module register_module register_parameter".split())
_MOVING = frozenset("to cuda cpu eval train apply".split())
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
                if _holds_layers(context, start, statement.value, f"{own}.{target.attr}"):
                    found[target.attr] = statement.value
    return found


def _holds_layers(context: Context, start: FunctionInfo, value: ast.expr, path: str) -> bool:
    """Whether a plain container is given to a path, and layers are in it or come into it in the same function."""
    if isinstance(value, ast.Name):  # self.layers = layers
        made = [
            item for item in start.statements if isinstance(item, ast.Assign) and path_of(item.targets[0]) == value.id
        ]
        return len(made) == 1 and _holds_layers(context, start, made[0].value, value.id)
    if isinstance(value, ast.Call):  # self.layers = made(sizes)
        return any(
            isinstance(item, ast.Return)
            and item.value is not None
            and not isinstance(item.value, ast.Call)
            and _holds_layers(context, callee, item.value, path_of(item.value))
            for callee in context.flow.callees(value)
            for item in callee.statements
        )
    if not isinstance(value, (ast.List, ast.Dict, ast.ListComp, ast.DictComp, ast.Tuple)):
        return False
    if _makes_layers(context, value) or _filled(context, start, path):
        return True
    name = path.partition(".")[2]
    builders = [item for item in (start.cls.methods.values() if start.cls is not None else ()) if item is not start]
    return bool(name) and any(
        _filled(context, item, f"{item.self_name}.{name}")
        for item in builders
        if any(site.caller is start for site in item.sites)
    )


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
    return any(is_new_layer(context, part) for part in parts)


def is_new_layer(context: Context, node: ast.expr, start: FunctionInfo | None = None) -> bool:
    """A call that makes a module with parameters, or a parameter, or a name that `start` gives to such."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MOVING:
        return is_new_layer(context, node.func.value, start)
    if isinstance(node, ast.Name) and start is not None:
        return _is_made_and_not_kept(context, node.id, start)
    if not isinstance(node, ast.Call):
        return False
    value = context.value(node)
    made = context.value(node.func).kind
    if value.kind is Kind.MODULE:
        return not value.frozen and not value.guess and made is not Kind.MODULE
    return value.kind is Kind.PARAMETER


def _is_made_and_not_kept(context: Context, name: str, start: FunctionInfo) -> bool:
    """Whether a function makes a layer under a name and gives it to no attribute."""
    made = [item for item in start.statements if isinstance(item, ast.Assign) and path_of(item.targets[0]) == name]
    kept = any(isinstance(item, ast.Assign) and path_of(item.value) == name for item in start.statements)
    return bool(made) and not kept and all(is_new_layer(context, item.value) for item in made)


def _filled(context: Context, start: FunctionInfo, path: str) -> bool:
    """Whether `path.append(layer)`, `path += [layer]`, or `path[key] = layer` puts new layers into a container."""
    for call in start.calls:
        if isinstance(call.func, ast.Attribute) and path_of(call.func.value) == path and call.args:
            if call.func.attr == "append" and is_new_layer(context, call.args[0], start):
                return True
            if call.func.attr == "extend" and _makes_layers(context, call.args[0]):
                return True
    for statement in start.statements:
        if isinstance(statement, ast.AugAssign) and path_of(statement.target) == path:
            if _makes_layers(context, statement.value):
                return True
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript):
            if path_of(statement.targets[0].value) == path and is_new_layer(context, statement.value, start):
                return True
    return False


def _is_registered(context: Context, cls: ClassInfo, attribute: str, node: ast.expr) -> bool:
    """Whether the container's layers become part of the module in another way."""
    for method in cls.methods.values():
        names = {f"{method.self_name}.{attribute}"}
        if isinstance(node, ast.Name) and method is cls.methods["__init__"]:
            names.add(node.id)
        for item in (part for statement in method.body for part in inside(statement)):
            if isinstance(item, ast.Call) and context.value(item).kind is Kind.MODULE:
                for argument in item.args:
                    inner = argument.value if isinstance(argument, ast.Starred) else argument
                    if path_of(inner) in names:
                        return True
            if isinstance(item, ast.Assign) and item.value is not node:
                if any(path_of(target) == f"{method.self_name}.{attribute}" for target in item.targets):
                    return True
        if _hands_out(method, f"{method.self_name}.{attribute}"):
            return True
    return False


def _hands_out(method: FunctionInfo, path: str) -> bool:
    """Whether a method gives a layer away, or another attribute: `return self.choices[name]`."""
    given = {
        target.id
        for item in method.statements
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Subscript) and path_of(item.value.value) == path
        for target in item.targets
        if isinstance(target, ast.Name)
    }
    for item in method.statements:
        kept = isinstance(item, ast.Assign) and any(isinstance(target, ast.Attribute) for target in item.targets)
        value = (
            item.value
            if isinstance(item, (ast.Return, ast.Assign)) and (kept or isinstance(item, ast.Return))
            else None
        )
        if isinstance(value, ast.Subscript) and path_of(value.value) == path:
            return True
        if isinstance(value, ast.Name) and value.id in given:
            return True
    return False


# ---- MP114, MP115 ----------------------------------------------------------------------------


def _growing(context: Context) -> Iterator[LintFinding]:
    for function in context.program.functions:
        for call in function.calls:
            if function.module.qualified(call.func) == "setattr" and len(call.args) == 3:
                new = is_new_layer(context, call.args[2]) and context.value(call.args[0]).kind is Kind.MODULE
                if new and isinstance(call.args[1], ast.JoinedStr) and _each_iteration(context, function, call):
                    yield _layer(context, function, call, shown(call.args[0]))
            if not isinstance(call.func, ast.Attribute) or call.func.attr not in _GROWING:
                continue
            if not _each_iteration(context, function, call):
                continue
            name, holder = call.func.attr, call.func.value
            if name == "add_param_group":
                yield _group(context, function, call, shown(holder))
            elif name == "append" and isinstance(holder, ast.Attribute) and holder.attr == "param_groups":
                yield _group(context, function, call, shown(holder.value))
            elif name == "register_parameter":
                if (
                    len(call.args) == 2
                    and isinstance(call.args[0], ast.JoinedStr)
                    and is_new_layer(context, call.args[1])
                ):
                    yield _layer(context, function, call, shown(holder))
            elif name in ("append", "add_module", "register_module") and context.value(holder).kind is Kind.MODULE:
                if call.args and is_new_layer(context, call.args[-1]):
                    yield _layer(context, function, call, shown(holder))
            elif name in ("append", "add") and call.args and context.value(call.args[-1]).kind is Kind.OPTIMIZER:
                if context.flow.outlives(function, holder, call) is not None and isinstance(call.args[-1], ast.Name):
                    yield _kept_optimizers(context, function, call, shown(holder))
        for statement in function.statements:
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                yield from _assigned(context, function, statement)


def _assigned(context: Context, function: FunctionInfo, statement: ast.Assign) -> Iterator[LintFinding]:
    """`net.blocks = nn.Sequential(*net.blocks, block)`, `optimizer.param_groups[0]["params"] = [new]`."""
    target, value = statement.targets[0], statement.value
    if not _each_iteration(context, function, statement):
        return
    if isinstance(value, ast.Call) and context.value(value).kind is Kind.MODULE and path_of(target):
        spread = [item.value for item in value.args if isinstance(item, ast.Starred)]
        if len(value.args) > 1 and any(path_of(item) == path_of(target) for item in spread):
            yield _layer(context, function, statement, shown(target))
    if isinstance(target, ast.Subscript) and isinstance(value, ast.Call):
        held = context.value(target.value)
        new = context.value(value).kind is Kind.OPTIMIZER and is_new_key(
            context, function, statement, held, target.slice
        )
        if new and context.flow.outlives(function, target, statement) is not None:
            yield _kept_optimizers(context, function, statement, shown(target.value))
    if isinstance(target, ast.Subscript) and is_constant_text(target.slice, "params"):
        holder = base_of(target)
        if isinstance(holder, ast.Attribute) and holder.attr == "param_groups" and not _frees_state(function):
            message = (
                f"`{shown(target)}` is given new parameters in every iteration; the state of the old ones stays in "
                f"`{shown(holder.value)}.state`, and they with it. Pop the old ones from it."
            )
            yield context.finding(function, statement, "MP114", message, "del", Confidence.MEDIUM)


def _frees_state(function: FunctionInfo) -> bool:
    return any(
        isinstance(item, ast.Attribute) and item.attr == "state" for part in function.body for item in inside(part)
    )


def _each_iteration(context: Context, function: FunctionInfo, node: ast.AST) -> bool:
    """Whether a node runs in every training iteration, whatever happens."""
    if is_conditional(function, node):
        return False
    around = context.flow.iteration_loop(function, node)
    if around is not None:
        return around[1] == "training" and context.flow.is_innermost(around[0])
    return function.name != "__init__" and called_in_iterations(context, function)


def _group(context: Context, function: FunctionInfo, call: ast.Call, holder: str) -> LintFinding:
    message = (
        f"`{holder}` is given another parameter group in every iteration; groups and the state of their parameters "
        "stay. Add it once, before the loop."
    )
    return context.finding(function, call, "MP114", message, "build_once", Confidence.MEDIUM)


def _kept_optimizers(context: Context, function: FunctionInfo, node: ast.Call | ast.stmt, holder: str) -> LintFinding:
    message = (
        f"`{holder}` keeps the optimizer of every iteration, with its state. Make one, before the loop, and change its "
        "settings."
    )
    return context.finding(function, node, "MP114", message, "build_once", Confidence.MEDIUM)


def _layer(context: Context, function: FunctionInfo, node: ast.Call | ast.stmt, holder: str) -> LintFinding:
    message = (
        f"`{holder}` is given another layer in every iteration, which stays with its gradients and optimizer state. "
        "Add it once, before the loop."
    )
    return context.finding(function, node, "MP115", message, "build_once", Confidence.MEDIUM)

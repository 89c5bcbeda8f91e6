"""Hidden states that are carried from iteration to iteration with their history: MP104."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.context import Context, sure
from memprof.lint.finding import LintFinding
from memprof.lint.names import inside, is_backward, is_constant, keyword, parts_of, path_of, paths_in
from memprof.lint.program import FunctionInfo, Loop
from memprof.lint.values import Kind


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for function in context.program.functions:
        for statement in function.statements:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
                path = carried_state(context, function, statement)
                if path is not None:
                    message = (
                        f"`{path}` goes into the next iteration with its history: the graph grows with every one. "
                        f"Detach it where an iteration begins: `{path} = {path}.detach()`, each tensor of a tuple."
                    )
                    confidence = sure(context.value(statement.value.func))
                    yield context.finding(function, statement, "MP104", message, "detach", confidence)


def carried_state(context: Context, function: FunctionInfo, statement: ast.Assign) -> str | None:
    """The state that a statement takes in, gives out, and leaves attached for the next iteration."""
    call = statement.value
    if not isinstance(call, ast.Call):
        return None
    called = context.value(call.func)
    if called.kind not in (Kind.MODULE, Kind.FUNCTION):
        return None
    runs = called.function is None or called.function in context.flow.applies or context.flow.in_module(called.function)
    if not runs:
        return None  # it computes from what it is given
    given = {_key(item): item for item in _parts_of([*call.args, *(item.value for item in call.keywords)])}
    made = {_key(item) for item in _parts_of(statement.targets)}
    around = context.flow.iteration_loop(function, statement)
    for path, argument in given.items():
        if not path or not context.value(argument).has_graph or (around is None and "." not in path):
            continue
        if context.flow.lifetimes.begun_anew(function, argument):
            continue  # at the start of each sequence
        source = path if path in made else _handed_on(around[0], path, made) if around is not None else None
        if source is None or _detached(around[0] if around is not None else None, function, path, statement, source):
            continue
        if context.flow.outlives(function, argument, statement) is None and not _is_carried(around, path, argument):
            continue
        training = around is not None and around[1] == "training"
        if around is not None and not training and _over_sequence(context, around[0], call):
            continue
        in_training = training or context.flow.every_iteration.get(function) == "training"
        if around is None and in_training and context.flow.reaches_backward(function, argument):
            if _is_own_state(context, function, argument):
                return path
            continue
        if context.knowledge.grad.get(statement) is None and not in_training:
            continue  # some callers switch autograd off
        if training or not context.flow.reaches_backward(function, argument):
            return path
    return None


def _is_own_state(context: Context, function: FunctionInfo, argument: ast.expr) -> bool:
    """Whether a module carries a state that nobody else sets, and passes go through its history again and again.

    Such a pass fails unless the one before it kept the graph.
    """
    if not isinstance(argument, ast.Attribute) or path_of(argument.value) != function.self_name:
        return False
    for other in context.program.functions:
        for statement in other.statements if other is not function and other.name != "__init__" else ():
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if any(getattr(part, "attr", "") == argument.attr for item in targets for part in parts_of(item)):
                return False
    return any(
        is_backward(call) and not is_constant(keyword(call, "retain_graph"), False) and keyword(call, "retain_graph")
        for other in context.program.functions
        for call in other.calls
    )


def _over_sequence(context: Context, loop: Loop, call: ast.Call) -> bool:
    """Whether a loop goes through a tensor, step by step: `for x in inputs`, `cell(inputs[t], state)`."""
    if not isinstance(loop, (ast.For, ast.AsyncFor)):
        return False
    turning = paths_in(loop.target)
    for item in (part for argument in call.args for part in ast.walk(argument)):
        if isinstance(item, ast.Subscript) and turning & paths_in(item.slice) and context.value(item.value).is_tensor:
            return True
    return any(
        context.value(item).is_tensor for item in ast.walk(loop.iter) if isinstance(item, (ast.Name, ast.Attribute))
    )


def _is_carried(around: tuple[Loop, str] | None, path: str, argument: ast.expr) -> bool:
    """A name that the loop itself rebinds, and that is there before it."""
    if around is None or "." in path:
        return False
    first = min(
        (item.lineno for item in inside(around[0]) if isinstance(item, ast.Name) and item.id == path), default=0
    )
    return first == argument.lineno


def _parts_of(nodes: list[ast.expr]) -> Iterator[ast.expr]:
    for node in nodes:
        if isinstance(node, (ast.Tuple, ast.List)):
            yield from _parts_of(node.elts)
        else:
            yield node


def _handed_on(loop: Loop, path: str, made: set[str]) -> str | None:
    """The name whose value a later `path = name` carries on."""
    for item in inside(loop):
        if isinstance(item, ast.Assign) and any(_key(target) == path for target in item.targets):
            if _key(item.value) in made:
                return _key(item.value)
    return None


def _detached(loop: Loop | None, function: FunctionInfo, path: str, statement: ast.Assign, source: str) -> bool:
    """Whether the state is rebound or cut off anywhere else in an iteration."""
    nodes = inside(loop) if loop is not None else (item for part in function.body for item in inside(part))
    for item in nodes:
        if item is statement:
            continue
        if isinstance(item, ast.Assign):
            targets = {_key(part) for part in _parts_of(item.targets)}
            if path in targets and _key(item.value) != source:
                return True
            if source in targets and source != path:
                return True
        elif isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute):
            if item.func.attr == "detach_":
                return True
            if item.func.attr in ("clear", "pop") and _key(item.func.value) in (path, source):
                return True
        elif isinstance(item, ast.Delete) and any(_key(target) in (path, source) for target in item.targets):
            return True
    return False


def _key(node: ast.AST) -> str:
    """A name, an attribute, or an element of one: `states[name]`."""
    if isinstance(node, ast.Subscript):
        return ast.unparse(node)
    return path_of(node)

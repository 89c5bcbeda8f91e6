"""Networks that run with autograd on and are not trained by what follows: MP203, MP204."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.flow import Loop
from memprof.lint.names import inside, is_backward, path_of
from memprof.lint.optimizers import Optimizer, optimizers
from memprof.lint.program import FunctionInfo
from memprof.lint.values import Kind

_DETACHING = frozenset("detach item numpy tolist argmax".split())


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    made = list(optimizers(context))
    if not made:
        return
    yield from _untrained(context, made)
    yield from _generators(context, made)


# ---- MP203 -----------------------------------------------------------------------------------


def _untrained(context: Context, made: list[Optimizer]) -> Iterator[LintFinding]:
    if not all(optimizer.known for optimizer in made):
        return
    trained = {path.rpartition(".")[2] for optimizer in made for path in optimizer.modules}
    partly = {part for optimizer in made for path in optimizer.modules for part in path.split(".")[:-1]}
    for function in context.program.functions:
        if context.flow.in_module(function):
            continue
        for call in function.calls:
            around = context.flow.iteration_loop(function, call)
            training = (around is not None and around[1] == "training") or function in context.flow.trains
            if not training or not context.flow.is_forward(call) or context.knowledge.grad.get(call) is not True:
                continue
            path = path_of(call.func)
            called = context.value(call.func)
            if not path or called.frozen or called.guessed or not context.value(call).has_graph:
                continue
            if any(context.value(argument).has_graph for argument in call.args):
                continue  # its gradients go on to what made its input
            names = _names_of(context, function, path)
            if names & trained or not names or _belongs_elsewhere(context, names):
                continue
            if called.cls is not None and names & partly:
                continue  # which of its parts are trained is its own business
            if not _reaches(context, function, call):
                continue
            message = (
                f"No optimizer has the parameters of `{path}`, and yet it runs with autograd on: its activations are "
                f"saved, and gradients computed for it, in every iteration. Run `{shown(call.func)}` under "
                "`with torch.no_grad():`."
            )
            yield context.finding(function, call, "MP203", message, "no_grad", Confidence.MEDIUM)


def _names_of(context: Context, function: FunctionInfo, path: str, depth: int = 0) -> set[str]:
    """Names a module has here and where it is passed from; empty when that cannot be told."""
    last = path.rpartition(".")[2]
    parameters = {parameter.arg for parameter in function.parameters}
    if path not in parameters or depth > 3:
        return {last}
    found = {last}
    for site in function.sites:
        passed = context.flow.argument(function, site.call, path)
        if passed is None or not path_of(passed):
            return set()
        more = _names_of(context, site.caller, path_of(passed), depth + 1)
        if not more:
            return set()
        found |= more
    return found


def _belongs_elsewhere(context: Context, names: set[str]) -> bool:
    """Whether a module is part of another, is frozen or wrapped by a call, or is updated by hand."""
    for function in context.program.functions:
        for call in function.calls:
            passed = [*call.args, *(item.value for item in call.keywords)]
            if any(path_of(item).rpartition(".")[2] in names for item in passed if path_of(item)):
                callee = context.flow.callees.get(call)
                if callee is None or callee.name == "__init__":
                    return True
            if isinstance(call.func, ast.Attribute) and path_of(call.func.value).rpartition(".")[2] in names:
                if call.func.attr in ("requires_grad_", "zero_grad", "step"):
                    return True
                if call.func.attr in ("parameters", "named_parameters") and not _is_counted(function, call):
                    return True
        for statement in function.statements:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Attribute):
                value = path_of(statement.value)
                if value and value.rpartition(".")[2] in names and statement.targets[0].attr not in names:
                    return True
    return False


def _is_counted(function: FunctionInfo, call: ast.Call) -> bool:
    return any(
        isinstance(item, ast.Attribute) and item.attr == "numel"
        for parent in function.module.parents_of(call)
        for item in (ast.walk(parent) if isinstance(parent, ast.expr) else ())
    )


def _reaches(context: Context, function: FunctionInfo, call: ast.Call) -> bool:
    statement = function.module.statement_of(call)
    if isinstance(statement, ast.Assign):
        parts = [item for target in statement.targets for item in ast.walk(target)]
        return any(context.flow.reaches_backward(function, item) for item in parts if isinstance(item, ast.Name))
    return False


# ---- MP204 -----------------------------------------------------------------------------------


def _generators(context: Context, made: list[Optimizer]) -> Iterator[LintFinding]:
    trained: dict[str, set[str]] = {}
    for optimizer in made:
        trained.setdefault(optimizer.name, set()).update(path.rpartition(".")[2] for path in optimizer.modules)
    if len(trained) < 2:
        return
    for function in context.program.functions:
        bodies: list[ast.AST] = [*function.loops]
        if function in context.flow.every_iteration:
            bodies.append(function.node)
        for body in bodies:
            if not any(isinstance(item, (ast.For, ast.While)) and item is not body for item in inside(body)):
                yield from _step_by_step(context, function, body, trained)


def _step_by_step(
    context: Context, function: FunctionInfo, body: ast.AST | Loop, trained: dict[str, set[str]]
) -> Iterator[LintFinding]:
    calls = sorted(
        (item for item in inside(body) if isinstance(item, ast.Call)), key=lambda item: (item.lineno, item.col_offset)
    )
    groups: list[tuple[list[ast.Call], set[str]]] = []
    for call in calls:
        if is_backward(call):
            if not groups or groups[-1][1]:
                groups.append(([], set()))
            groups[-1][0].append(call)
        else:
            stepped = _steps(call, trained)
            if stepped and groups:
                groups[-1][1].add(stepped)
    for backwards, steps in groups:
        own = {name for step in steps for name in trained[step]}
        others = {name for _, later in groups for step in later - steps for name in trained[step]} - own
        if not steps or not others:
            continue
        for backward in backwards:
            found = _through(context, function, body, backward, own, others)
            if found is not None:
                yield found


def _steps(call: ast.Call, trained: dict[str, set[str]]) -> str:
    """Name of the optimizer whose step a call is: `opt.step()`, `scaler.step(opt)`."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "step":
        return ""
    for node in (call.func.value, *call.args[:1]):
        name = path_of(node).rpartition(".")[2]
        if name in trained:
            return name
    return ""


def _through(
    context: Context, function: FunctionInfo, body: ast.AST, backward: ast.Call, own: set[str], others: set[str]
) -> LintFinding | None:
    """The call of the stepped network whose input still hangs on another network."""
    assigned: dict[str, ast.expr] = {}
    for item in sorted(
        (item for item in inside(body) if isinstance(item, ast.Assign) and item.lineno <= backward.lineno),
        key=lambda item: item.lineno,
    ):
        for target in item.targets:
            if path_of(target):
                assigned[path_of(target)] = item.value
    assert isinstance(backward.func, ast.Attribute)
    for call in _calls_behind(backward.func.value, assigned, set()):
        if path_of(call.func).rpartition(".")[2] not in own or context.value(call.func).kind is not Kind.MODULE:
            continue
        for argument in call.args:
            for behind in _calls_behind(argument, assigned, set()):
                name = path_of(behind.func).rpartition(".")[2]
                if name in others and context.value(behind).has_graph and context.value(argument).has_graph:
                    message = (
                        f"`{shown(argument, 30)}` comes from `{path_of(behind.func)}` with its graph, but only "
                        f"`{path_of(call.func)}` is stepped after this backward pass: it goes on through "
                        f"`{path_of(behind.func)}` for nothing. Pass `{shown(argument, 30)}.detach()`."
                    )
                    return context.finding(function, call, "MP204", message, "detach", Confidence.MEDIUM)
    return None


def _calls_behind(node: ast.AST, assigned: dict[str, ast.expr], seen: set[str]) -> Iterator[ast.Call]:
    """Calls whose graph an expression hangs on, through what is assigned to names before it."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in _DETACHING:
            return
        yield node
    if isinstance(node, (ast.Name, ast.Attribute)):
        path = path_of(node)
        if path in assigned and path not in seen:
            yield from _calls_behind(assigned[path], assigned, seen | {path})
            return
    if isinstance(node, ast.Attribute) and node.attr in ("data", "grad"):
        return
    for child in ast.iter_child_nodes(node):
        yield from _calls_behind(child, assigned, seen)

"""Networks that run with autograd on and that no optimizer trains: MP203."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.checks.generators import DETACHING
from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import path_of
from memprof.lint.optimizers import Optimizer, optimizers
from memprof.lint.program import ClassInfo, FunctionInfo, SourceModule
from memprof.lint.values import Kind


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    made = list(optimizers(context))
    if not made:
        return
    yield from _untrained(context, made)


def _untrained(context: Context, made: list[Optimizer]) -> Iterator[LintFinding]:
    if not all(optimizer.known for optimizer in made):
        return
    trained = {path.rpartition(".")[2] for optimizer in made for path in optimizer.modules}
    partly = {part for optimizer in made for path in optimizer.modules for part in path.split(".")[:-1]}
    for function in context.program.functions:
        if context.flow.in_module(function) or context.is_test(function) or not _steps(function.module):
            continue
        for call in function.calls:
            around = context.flow.iteration_loop(function, call)
            if around is not None:
                training = around[1] == "training"
            else:
                training = function in context.flow.trains and function in context.flow.every_iteration
            if not training or not context.flow.is_forward(call) or context.knowledge.grad.get(call) is not True:
                continue
            module = context.flow.module_run(call)
            path = path_of(module) if module is not None else ""
            called = context.value(module)
            if not path or called.frozen or called.guessed or not context.value(call).has_graph:
                continue
            if any(context.value(argument).has_graph for argument in call.args):
                continue  # its gradients go on to what made its input
            user = function.module.parents.get(call)
            if isinstance(user, ast.Attribute) and user.attr in DETACHING:
                continue  # its graph is gone at once
            names = _names_of(context, function, path)
            if names & trained or not names or _belongs_elsewhere(context, names):
                continue
            if names & partly:
                found = _partly_trained(context, function, call, called.cls, trained | partly)
                if found is not None:
                    yield found
                continue
            message = (
                f"No optimizer has the parameters of `{path}`, and yet it runs with autograd on: its activations are "
                f"saved, and gradients computed for it, in every iteration. Run `{shown(call.func)}` under "
                "`with torch.no_grad():`."
            )
            yield context.finding(function, call, "MP203", message, "no_grad", Confidence.MEDIUM)


def _partly_trained(
    context: Context, function: FunctionInfo, call: ast.Call, cls: ClassInfo | None, trained: set[str]
) -> LintFinding | None:
    """A model of which optimizers have a part, and the rest runs with autograd on."""
    path = shown(call.func)
    rest, frozen = f"the rest of `{path}`", f"`{path}` with `requires_grad_(False)`, and what is trained with"
    if cls is not None:
        parts = [] if _sees_to_itself(cls) else sorted(_untrained_parts(context, cls, trained))
        if not parts:
            return None
        rest = " and ".join(f"`{path}.{part}`" for part in parts)
        frozen = " and ".join(f"`{path}.{part}.requires_grad_(False)`" for part in parts)
    else:
        frozen += " `requires_grad_()`"
    message = (
        f"No optimizer has the parameters of {rest}, and yet it runs with autograd on: its activations are saved, and "
        f"gradients computed for it, in every iteration. Freeze it before the loop: {frozen}."
    )
    return context.finding(function, call, "MP203", message, "freeze", Confidence.MEDIUM)


def _untrained_parts(context: Context, cls: ClassInfo, trained: set[str]) -> set[str]:
    """Layers of a model that no optimizer has, and that run before all that are trained."""
    found: set[str] = set()
    forward = context.program.method(cls, "forward")
    if forward is None:
        return found
    for call in forward.calls:
        called = context.value(call.func)
        owner, _, name = path_of(call.func).rpartition(".")
        if owner != forward.self_name or not owner or name in trained or not context.flow.is_forward(call):
            continue
        if called.frozen or called.guessed or context.knowledge.grad.get(call) is not True:
            continue
        if context.value(call).has_graph and not any(context.value(item).has_graph for item in call.args):
            found.add(name)
    return found


def _steps(module: SourceModule) -> bool:
    """Whether a file steps an optimizer; one that only tries a forward and a backward pass trains nothing."""
    return any(
        isinstance(call.func, ast.Attribute) and call.func.attr == "step"
        for function in module.every_function
        for call in function.calls
    )


def _names_of(context: Context, function: FunctionInfo, path: str, depth: int = 0) -> set[str]:
    """Names a module has here and where it is passed from; empty when that cannot be told."""
    found = {path.rpartition(".")[2]}
    parameters = {parameter.arg for parameter in function.parameters}
    if path not in parameters or depth > 3:
        return found | _wrapped(context, function, path)
    for site in function.sites:
        passed = context.flow.argument(function, site.call, path)
        if passed is None or not path_of(passed):
            return set()
        more = _names_of(context, site.caller, path_of(passed), depth + 1)
        if not more:
            return set()
        found |= more
    return found


def _wrapped(context: Context, function: FunctionInfo, path: str) -> set[str]:
    """Names of the modules a module is made from: `parallel = nn.DataParallel(net)`; a copy has its own parameters."""
    found: set[str] = set()
    for statement in function.module.body.statements + function.statements:
        if not isinstance(statement, ast.Assign) or not any(path_of(target) == path for target in statement.targets):
            continue
        value = statement.value
        called = function.module.qualified(value.func) if isinstance(value, ast.Call) else ""
        if called != "copy.deepcopy":
            parts = [part for part in ast.walk(value) if context.value(part).kind is Kind.MODULE]
            found |= {path_of(part).rpartition(".")[2] for part in parts}
    return found - {""}


def _belongs_elsewhere(context: Context, names: set[str]) -> bool:
    """Whether a module is part of another, is frozen or wrapped by a call, or is updated by hand."""
    for function in context.program.functions:
        for call in function.calls:
            passed = [*call.args, *(item.value for item in call.keywords)]
            if any(path_of(item).rpartition(".")[2] in names for item in passed if path_of(item)):
                callees = context.flow.callees(call)
                if not callees or any(callee.name == "__init__" for callee in callees):
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


def _sees_to_itself(cls: ClassInfo) -> bool:
    """Whether a model of which a part is trained switches autograd off for the rest."""
    words = {item.attr for item in ast.walk(cls.module.tree) if isinstance(item, ast.Attribute)}
    return bool(words & {"no_grad", "inference_mode", "requires_grad", "requires_grad_", "detach"})

"""What stays behind by accident: checkpoints, exceptions, batches stored by datasets: MP209, MP110, MP117."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.context import Context, shown
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import inside, is_constant_text, keyword, path_of, paths_in
from memprof.lint.program import FunctionInfo
from memprof.lint.values import Kind

_MEMORY_ERRORS = frozenset(("torch.cuda.OutOfMemoryError", "torch.OutOfMemoryError"))


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    for function in context.program.functions:
        if not context.is_test(function):
            yield from _checkpoints(context, function)
        yield from _exceptions(context, function)
    yield from _datasets(context)


# ---- MP209 -----------------------------------------------------------------------------------


def _checkpoints(context: Context, function: FunctionInfo) -> Iterator[LintFinding]:
    for statement in function.statements:
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
            continue
        call = statement.value
        if function.module.qualified(call.func) != "torch.load" or len(statement.targets) != 1:
            continue
        where = keyword(call, "map_location") or (call.args[1] if len(call.args) > 1 else None)
        if where is not None and _is_host(where):
            continue
        path = path_of(statement.targets[0])
        if not path or not _is_loaded(function, path):
            continue
        own = "." in path and path.partition(".")[0] == function.self_name
        stays = _stays(context, function, path) if own else _trains_after(context, function, statement, path)
        if not stays and not _is_kept_by_a_caller(context, function, path):
            continue
        how = "the device it was saved from" if where is None else f"`{shown(where, 20)}`"
        message = (
            f"`{path}` is loaded to {how} and stays there while the model runs, which takes as much as the model and "
            f'its optimizer state. Load it with `map_location="cpu"` and `del {path}` once it is loaded.'
        )
        yield context.finding(function, statement, "MP209", message, "map_location", Confidence.MEDIUM)


def _is_host(where: ast.expr) -> bool:
    """Whether `map_location` is the host: by its name, or a function that leaves the storage where it was read."""
    if isinstance(where, ast.Lambda) and where.args.args:
        return isinstance(where.body, ast.Name) and where.body.id == where.args.args[0].arg
    return is_constant_text(where, "cpu") or "cpu" in ast.unparse(where)


def _is_loaded(function: FunctionInfo, path: str) -> bool:
    """Whether weights are loaded from what a name holds, directly or picked out under another name."""
    names = {path}
    for statement in function.statements:
        if isinstance(statement, ast.Assign) and path in paths_in(statement.value):
            names |= {path_of(target) for target in statement.targets}
    for call in function.calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "load_state_dict" and call.args:
            if (names - {""}) & paths_in(call.args[0]):
                return True
    return False


def _stays(context: Context, function: FunctionInfo, path: str) -> bool:
    """Whether an attribute is never given anything else, in a class that trains."""
    if function.cls is None:
        return False
    name = path.partition(".")[2]
    for method in function.cls.methods.values():
        for statement in method.statements:
            targets = statement.targets if isinstance(statement, (ast.Assign, ast.Delete)) else []
            if method is not function and method.name != "__init__":
                if any(path_of(target) == f"{method.self_name}.{name}" for target in targets):
                    return False
            elif method is function and isinstance(statement, ast.Delete):
                if any(path_of(target) == path for target in targets):
                    return False
    written = [
        statement
        for statement in function.statements
        if isinstance(statement, ast.Assign) and any(path_of(target) == path for target in statement.targets)
    ]
    return len(written) == 1 and any(method in context.flow.trains for method in function.cls.methods.values())


def _is_kept_by_a_caller(context: Context, function: FunctionInfo, path: str) -> bool:
    """Whether a function returns what it loaded, and a caller has it under a name while the model runs."""
    returned = [item.value for item in function.statements if isinstance(item, ast.Return) and item.value is not None]
    if not any(path_of(item) == path for item in returned):
        return False
    for site in function.sites:
        statement = site.caller.module.statement_of(site.call)
        if isinstance(statement, ast.Assign) and statement.value is site.call and path_of(statement.targets[0]):
            if _trains_after(context, site.caller, statement, path_of(statement.targets[0])):
                return True
    return False


def _trains_after(context: Context, function: FunctionInfo, statement: ast.stmt, path: str) -> bool:
    """Whether the model runs in a loop while the checkpoint is still there."""
    start = statement.lineno
    gone = [
        item.lineno
        for item in (node for part in function.body for node in inside(part))
        if (isinstance(item, ast.Delete) and any(path_of(target) == path for target in item.targets))
        or (
            isinstance(item, ast.Assign) and item is not statement and any(path_of(one) == path for one in item.targets)
        )
    ]
    end = min((line for line in gone if line > start), default=10**9)
    for loop in function.loops:
        if start < loop.lineno < end and context.flow.iteration_loop(function, loop.body[0]) is not None:
            return True
    for call in function.calls:
        if start < call.lineno < end and any(callee in context.flow.trains for callee in context.flow.callees(call)):
            return True
    return False


# ---- MP110 -----------------------------------------------------------------------------------


def _exceptions(context: Context, function: FunctionInfo) -> Iterator[LintFinding]:
    for item in function.statements:
        if not isinstance(item, ast.Try):
            continue
        runs = any(_runs_model(context, node) for part in item.body for node in inside(part))
        if not runs:
            continue
        for handler in item.handlers:
            yield from _kept(context, function, handler)
            yield from _retried(context, function, handler)


def _runs_model(context: Context, node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    flow = context.flow
    return flow.is_forward(node) or any(
        callee in flow.applies or callee in flow.trains for callee in flow.callees(node)
    )


def _kept(context: Context, function: FunctionInfo, handler: ast.ExceptHandler) -> Iterator[LintFinding]:
    """The exception itself, or its traceback, is stored."""
    held = {handler.name, f"{handler.name}.__traceback__"} if handler.name is not None else set()
    for node in (item for part in handler.body for item in inside(part)):
        kept: ast.expr | None = None
        holder: ast.expr | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "add"):
            holder, kept = node.func.value, node.args[-1] if node.args else None
        elif isinstance(node, ast.Assign):
            holder, kept = node.targets[0], node.value
        if holder is None or kept is None or not isinstance(node, (ast.Call, ast.Assign)):
            continue
        parts = kept.elts if isinstance(kept, (ast.Tuple, ast.List)) else [kept]
        if isinstance(kept, ast.Dict):
            parts = kept.values
        elif isinstance(kept, ast.Call) and function.module.qualified(kept.func) == "dict":
            parts = [item.value for item in kept.keywords]
        if not any(path_of(part) in held or _is_exc_info(function, part) for part in parts):
            continue
        message = (
            f"`{shown(holder)}` keeps the exception, and its traceback every frame it went through, with their "
            f"tensors. Keep its text: `str({handler.name or 'error'})`, or `traceback.format_exc()`."
        )
        yield context.finding(function, node, "MP110", message, "del", Confidence.MEDIUM)


def _is_exc_info(function: FunctionInfo, node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and function.module.qualified(node.func) == "sys.exc_info"


def _retried(context: Context, function: FunctionInfo, handler: ast.ExceptHandler) -> Iterator[LintFinding]:
    """The model runs again inside of `except`, while the traceback still holds the first try's tensors."""
    names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []
    if not any(function.module.qualified(name) in _MEMORY_ERRORS for name in names):
        if "out of memory" not in ast.unparse(handler).lower():
            return
    for part in handler.body:
        for node in inside(part):
            if isinstance(node, ast.Call) and _runs_model(context, node):
                message = (
                    "This runs inside `except`, where the traceback still holds the tensors of the try that failed. "
                    "Set a flag, and try again after the `except` block has ended."
                )
                yield context.finding(function, node, "MP110", message, "del", Confidence.MEDIUM)
                return


# ---- MP117 -----------------------------------------------------------------------------------


def _datasets(context: Context) -> Iterator[LintFinding]:
    collating = set(_collating(context))
    for function in context.program.functions:
        collates = function in collating
        fetches = function.cls is not None and function.name in ("__getitem__", "__getitems__", "collate_fn", "collate")
        if not collates and not (fetches and _is_dataset(context, function)):
            continue
        for call in function.calls:
            if not isinstance(call.func, ast.Attribute) or call.func.attr not in ("append", "add", "extend"):
                continue
            path = path_of(call.func.value)
            outside = path.startswith(f"{function.self_name}.") if function.self_name else not _is_local(function, path)
            holder = context.value(call.func.value)
            if not path or not outside or holder.bounded or not call.args:
                continue
            if context.value(call.args[-1]).kind is Kind.PLAIN or context.flow.emptied(function, call.func.value, None):
                continue
            message = (
                f"`{path}` is given something with every item that is fetched, and grows with every epoch, once in "
                "each worker. Store nothing here, or by index."
            )
            yield context.finding(function, call, "MP117", message, "bound_container", Confidence.MEDIUM)


def _collating(context: Context) -> Iterator[FunctionInfo]:
    """The functions that loaders collate batches with."""
    for _, call in context.calls("torch.utils.data.DataLoader"):
        for one in context.value(keyword(call, "collate_fn")).alternatives:
            called = one.function if one.cls is None else context.program.method(one.cls, "__call__")
            if called is not None:
                yield called


def _is_dataset(context: Context, function: FunctionInfo) -> bool:
    names = context.program.base_names(function.cls) if function.cls is not None else set()
    return any(name.rpartition(".")[2].endswith("Dataset") for name in names)


def _is_local(function: FunctionInfo, path: str) -> bool:
    root = path.partition(".")[0]
    return any(
        isinstance(item, ast.Name) and item.id == root and isinstance(item.ctx, ast.Store)
        for part in function.body
        for item in inside(part)
    ) or root in {parameter.arg for parameter in function.parameters}

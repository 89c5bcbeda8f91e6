"""Where what a container gathers is joined into one tensor, and what becomes of that."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.names import base_of, path_of
from memprof.lint.program import FunctionInfo

JOINING = frozenset(f"torch.{name}" for name in "cat concat concatenate stack vstack hstack".split())

_REDUCING_METHODS = frozenset("argmax softmax log_softmax topk max sigmoid".split())
_REDUCING_FUNCTIONS = frozenset(
    "torch.argmax torch.softmax torch.log_softmax torch.topk torch.max torch.sigmoid torch.nn.functional.softmax "
    "torch.nn.functional.log_softmax torch.nn.functional.cross_entropy torch.nn.functional.nll_loss".split()
)


def join_of(function: FunctionInfo, holder: ast.expr) -> tuple[FunctionInfo, ast.Call] | None:
    """The call that makes one tensor of a container: in its function, its class, or a caller that it is returned to."""
    path = path_of(base_of(holder))
    functions = [function]
    if function.cls is not None and path.startswith(f"{function.self_name}."):
        functions += [method for method in function.cls.methods.values() if method is not function]
    places = [(where, path) for where in functions] + list(_returned(function, path))
    for where, name in places:
        for call in where.calls:
            if where.module.qualified(call.func) in JOINING and call.args:
                if any(path_of(item) == name for item in ast.walk(call.args[0])):
                    return where, call
    return None


def _returned(function: FunctionInfo, path: str) -> Iterator[tuple[FunctionInfo, str]]:
    """Callers that get a container, and what they call it: `outputs, labels = collect(model, loader)`."""
    for statement in function.statements:
        given = statement.value if isinstance(statement, ast.Return) else None
        parts = given.elts if isinstance(given, ast.Tuple) else [given]
        for number, part in enumerate(parts):
            for site in function.sites if part is not None and path_of(part) == path != "" else ():
                bound = site.caller.module.parents.get(site.call)
                target = bound.targets[0] if isinstance(bound, ast.Assign) else None
                if isinstance(given, ast.Tuple):
                    same = isinstance(target, ast.Tuple) and len(target.elts) == len(parts)
                    target = target.elts[number] if isinstance(target, ast.Tuple) and same else None
                if target is not None and path_of(target):
                    yield site.caller, path_of(target)


def is_reduced_later(function: FunctionInfo, call: ast.Call) -> bool:
    """Whether all that is wanted of a joined tensor is something that each batch could have given: a class, a hit."""
    statement = function.module.statement_of(call)
    names = {path_of(target) for target in statement.targets} if isinstance(statement, ast.Assign) else set()
    if _reduces(function, call):
        return True
    if not isinstance(statement, ast.Assign) or statement.value is not call:
        return False
    return any(
        isinstance(item, ast.Name)
        and item.id in names
        and isinstance(item.ctx, ast.Load)
        and item.lineno > statement.lineno
        and _reduces(function, item)
        for part in function.body
        for item in ast.walk(part)
    )


def _reduces(function: FunctionInfo, node: ast.expr) -> bool:
    """Whether what is around an expression keeps little of it."""
    parent = function.module.parents.get(node)
    if isinstance(parent, ast.Compare):
        return True
    if isinstance(parent, ast.Attribute):
        return parent.attr in _REDUCING_METHODS
    return isinstance(parent, ast.Call) and function.module.qualified(parent.func) in _REDUCING_FUNCTIONS

"""Small questions about the syntax tree: what an expression is called, what a statement binds, what is inside."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from memprof.lint.program import LOOPS, SCOPES, FunctionInfo

_BACKWARD = frozenset(("backward", "manual_backward"))


def path_of(node: ast.AST) -> str:
    """`self.state.hidden` of an expression made of names and attributes, or ''."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    parts.append(node.id)
    return ".".join(reversed(parts))


def base_of(node: ast.AST) -> ast.AST:
    """What is left of an expression without subscripts: `history` of `history["loss"][0]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node


def paths_in(node: ast.AST) -> set[str]:
    """All names and attributes in an expression."""
    return {path_of(item) for item in ast.walk(node) if isinstance(item, (ast.Name, ast.Attribute))}


def inside(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, without the bodies of functions and classes defined there."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        waiting.extend(
            child for child in ast.iter_child_nodes(current) if not isinstance(child, SCOPES) or current is node
        )


def parts_of(target: ast.expr) -> list[ast.expr]:
    """The targets of an assignment, one by one."""
    if isinstance(target, (ast.Tuple, ast.List)):
        return [part for item in target.elts for part in parts_of(item)]
    return [target.value] if isinstance(target, ast.Starred) else [target]


def is_backward(call: ast.Call) -> bool:
    """Whether a call runs a backward pass: `loss.backward()`, `accelerator.backward(loss)`."""
    func = call.func
    if not isinstance(func, ast.Attribute) or func.attr not in _BACKWARD:
        return False
    return not (isinstance(func.value, ast.Call) and getattr(func.value.func, "id", "") == "super")


def keyword(node: ast.Call, name: str) -> ast.expr | None:
    """The expression a call passes by a name, or None."""
    return next((item.value for item in node.keywords if item.arg == name), None)


def is_constant(node: ast.AST | None, value: object) -> bool:
    """Whether an expression is this literal."""
    return isinstance(node, ast.Constant) and node.value is value


def is_constant_text(node: ast.expr | None, text: str) -> bool:
    """Whether an expression is this text, or `torch.device` of it."""
    if isinstance(node, ast.Call) and node.args:
        node = node.args[0]
    return isinstance(node, ast.Constant) and node.value == text


def text_of(node: ast.AST | None) -> str | None:
    """The text that a literal is, or None."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def is_name(node: ast.AST | None, name: str) -> bool:
    """Whether an expression is this name."""
    return isinstance(node, ast.Name) and node.id == name


def local_names(function: FunctionInfo) -> set[str]:
    """Names a function binds itself, parameters included."""
    if isinstance(function.node, ast.Module):
        return set()
    shared = {
        name
        for statement in function.statements
        if isinstance(statement, (ast.Global, ast.Nonlocal))
        for name in statement.names
    }
    found = {parameter.arg for parameter in function.parameters}
    for statement in function.statements:
        if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {part.id for target in targets for part in parts_of(target) if isinstance(part, ast.Name)}
        elif isinstance(statement, LOOPS) and not isinstance(statement, ast.While):
            found |= {part.id for part in parts_of(statement.target) if isinstance(part, ast.Name)}
    return found - shared

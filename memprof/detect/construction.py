"""Finds where in the source a module, or a container of modules, was made.

What is known of it from the run (its class, its path, its sizes) chooses among the calls that make one; where that
does not tell, there is no answer.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from memprof.detect.source import syntax_tree
from memprof.record.events import Location, ModuleRef

_WRONG = -100
_LEAST = 3
_SIZES = (("in_features", "in_channels"), ("out_features", "out_channels"))


class _Call(NamedTuple):
    file: str
    node: ast.Call
    attribute: str
    """Attribute or variable that the statement assigns, or ''."""
    position: int | None
    """Its place among the arguments of a `Sequential`."""
    function: str


def layer_made_at(module: ModuleRef, features: tuple[int, int], files: Sequence[str]) -> Location | None:
    """Find the call that made a linear layer or a convolution.

    Args:
        module: The layer: path and class.
        features: Its `in_features` and `out_features`, or channels.
        files: Where to look.

    Returns:
        Its line, or None where no call, or more than one, fits.
    """
    scored: list[tuple[int, _Call]] = []
    for call in _calls(module.type_name, files):
        score = _fits(call, module.path, features)
        if score >= _LEAST:
            scored.append((score, call))
    best = max((score for score, _ in scored), default=0)
    found = [call for score, call in scored if score == best]
    if len(found) != 1:
        return None
    return Location(found[0].file, found[0].node.lineno, found[0].function)


def _fits(call: _Call, path: str, features: tuple[int, int]) -> int:
    score = 0
    given = {keyword.arg: keyword.value for keyword in call.node.keywords}
    for place, (names, size, weight) in enumerate(zip(_SIZES, features, (4, 2), strict=True)):
        by_name = next((given[name] for name in names if name in given), None)
        value = call.node.args[place] if place < len(call.node.args) else by_name
        known = _number(value)
        if known is not None:
            score += weight if known == size else _WRONG
    parts = path.split(".")
    if parts[-1].isdigit():
        if call.position is not None:
            score += 3 if call.position == int(parts[-1]) else -2
        if len(parts) > 1 and call.attribute == parts[-2]:
            score += 2
    elif call.attribute == parts[-1]:
        score += 3
    elif call.attribute and call.position is None:
        score -= 2
    return score


def _calls(name: str, files: Iterable[str]) -> Iterator[_Call]:
    """Calls of a class by its last name, with what their statement assigns."""
    for file in dict.fromkeys(files):
        tree = syntax_tree(file)
        if tree is not None:
            yield from _calls_in(tree, name, file, "", "", None)


def _calls_in(
    node: ast.AST, name: str, file: str, function: str, attribute: str, position: int | None
) -> Iterator[_Call]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        function = f"{function}.{node.name}" if function else node.name
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        attribute = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
    if isinstance(node, ast.Call) and _last_name(node.func) == name:
        yield _Call(file, node, attribute, position, function)
    starred = False
    for child in ast.iter_child_nodes(node):
        inside = None
        if isinstance(node, ast.Call) and _last_name(node.func) == "Sequential" and child in node.args:
            starred = starred or isinstance(child, ast.Starred)
            inside = None if starred else node.args.index(child)
        yield from _calls_in(child, name, file, function, attribute, inside)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _number(node: ast.expr | None) -> int | None:
    """Value of an expression of whole numbers, or None."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, int) else None
    if isinstance(node, ast.BinOp):
        left, right = _number(node.left), _number(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.FloorDiv) and right:
            return left // right
        if isinstance(node.op, ast.Pow) and 0 <= right < 16:
            return int(left**right)
    return None


def attribute_made_at(attribute: str, init: Location | None) -> Location | None:
    """Find the statement of an `__init__` that makes an attribute.

    Args:
        attribute: Its name.
        init: Where that `__init__` begins.

    Returns:
        The first statement that assigns `self.attribute`.
    """
    tree = syntax_tree(init.file) if init is not None else None
    if tree is None or init is None:
        return None
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.lineno != init.line:
            continue
        for node in ast.walk(function):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and any(
                isinstance(target, ast.Attribute) and target.attr == attribute for target in targets
            ):
                return Location(init.file, node.lineno, init.function or function.name)
    return None


__all__ = ["attribute_made_at", "layer_made_at"]

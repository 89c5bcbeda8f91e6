"""What the source says about the surroundings of a statement. The source alone never raises a finding."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from memprof.detect.source import syntax_tree
from memprof.record.census import CodeRegion
from memprof.record.events import Location

_ADDRESSES = frozenset({"id", "data_ptr", "untyped_storage", "storage"})
_TO_HOST = frozenset({"cpu", "numpy", "tolist"})


def statement_at_line(place: Location | None) -> tuple[ast.stmt | None, list[ast.AST]]:
    """The simple statement at a line and what it lies in, outermost first."""
    tree = syntax_tree(place.file) if place is not None else None
    if tree is None or place is None:
        return None, []
    around: list[ast.AST] = []
    node: ast.AST = tree
    while True:
        inside = next(
            (
                child
                for child in ast.iter_child_nodes(node)
                if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case))
                and _first_line(child) <= place.line <= (getattr(child, "end_lineno", None) or 0)
            ),
            None,
        )
        if inside is None:
            return (node, around[:-1]) if isinstance(node, ast.stmt) else (None, around)
        around.append(inside)
        node = inside


def _first_line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 0) or 0) or min(
        (int(getattr(child, "lineno", 0)) for child in ast.walk(node) if hasattr(child, "lineno")), default=0
    )


def _called(node: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for item in ast.walk(node):
        if isinstance(item, ast.Call):
            function = item.func
            yield function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""), item


def called_in(region: CodeRegion) -> frozenset[str]:
    """Last names of the functions and methods that are called between the lines of a region."""
    tree = syntax_tree(region.file)
    if tree is None:
        return frozenset()
    return frozenset(
        name for name, call in _called(tree) if name and region.first_line <= call.lineno <= region.last_line
    )


def registered_as_hook(statement: Location) -> bool:
    """Whether the source hands the function around a statement, or a lambda in it, to a `register_..._hook`."""
    tree = syntax_tree(statement.file)
    if tree is None:
        return False
    function = statement.function.rpartition(".")[2]
    for name, call in _called(tree):
        if not (name.startswith("register_") and name.endswith("hook")):
            continue
        for argument in call.args:
            if isinstance(argument, ast.Lambda) and argument.lineno <= statement.line <= (argument.end_lineno or 0):
                return True
            named = argument.attr if isinstance(argument, ast.Attribute) else getattr(argument, "id", "")
            if function != "<module>" and named == function:
                return True
    return False


def context_assignment(attribute: str, files: Iterable[str]) -> Location | None:
    """The statement `ctx.attribute = ...` in an autograd function, whose first argument is `ctx`."""
    for file in files:
        tree = syntax_tree(file)
        for function in ast.walk(tree) if tree is not None else ():
            if not isinstance(function, ast.FunctionDef) or not function.args.args:
                continue
            context = function.args.args[0].arg
            if context == "self" or function.name not in ("forward", "setup_context", "backward"):
                continue
            for node in ast.walk(function):
                if not isinstance(node, ast.Assign):
                    continue
                for target in node.targets:
                    for part in ast.walk(target):
                        if isinstance(part, ast.Attribute) and part.attr == attribute and _is_name(part.value, context):
                            return Location(file, node.lineno, function.name)
    return None


def growing_calls(files: Iterable[str], names: Iterable[str]) -> list[Location]:
    """Lines inside loops or functions that call one of some methods, the last line first."""
    wanted = frozenset(names)
    found = []
    for file in files:
        tree = syntax_tree(file)
        for name, call in _called(tree) if tree is not None else ():
            if name in wanted:
                place = Location(file, call.lineno, "")
                _, around = statement_at_line(place)
                if any(isinstance(item, (ast.For, ast.While, ast.FunctionDef)) for item in around):
                    found.append(place)
    return sorted(found, key=lambda place: -place.line)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def key_is_address(statement: Location | None, name: str) -> bool:
    """Whether a statement stores under a key that is made of addresses (`cache[id(x)] = y`)."""
    node, _ = statement_at_line(statement)
    if node is None or not name:
        return False
    return any(
        called in _ADDRESSES
        for item in ast.walk(node)
        if isinstance(item, ast.Subscript)
        for called, _ in _called(item.slice)
    )


def moves_to_host(*statements: Location | None) -> bool:
    """Whether one of the statements moves tensors to the host: `.cpu()`, `.to("cpu")`, `.numpy()`."""
    for statement in statements:
        node, _ = statement_at_line(statement)
        for name, call in _called(node) if node is not None else ():
            if name in _TO_HOST or (
                name == "to" and any(isinstance(item, ast.Constant) and item.value == "cpu" for item in call.args)
            ):
                return True
    return False


def reads_what_it_stores(statement: Location | None, name: str) -> bool:
    """Whether the loop or function around a storing statement also computes with what is stored.

    Args:
        statement: The one that stores.
        name: The holder's name.
    """
    node, around = statement_at_line(statement)
    wanted = name.partition("[")[0].rpartition(".")[2]
    scopes = [item for item in around if isinstance(item, (ast.For, ast.While, ast.FunctionDef, ast.AsyncFunctionDef))]
    if node is None or not scopes or not wanted:
        return False
    for item in ast.walk(scopes[-1]):
        if isinstance(item, ast.Call) and not _is_measure(item):
            for argument in [*item.args, *(keyword.value for keyword in item.keywords)]:
                if _names(argument, wanted):
                    return True
    return False


def _is_measure(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in ("len", "print", "id")


def _names(node: ast.AST, wanted: str) -> bool:
    """Whether an argument is the container, an entry or a slice of it."""
    while isinstance(node, (ast.Subscript, ast.Starred)):
        node = node.value
    return (isinstance(node, ast.Name) and node.id == wanted) or (
        isinstance(node, ast.Attribute) and node.attr == wanted
    )

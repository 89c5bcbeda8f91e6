"""Tensors of a custom autograd function saved for backward instead of kept as attributes of its context."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile


def save_for_backward(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`ctx.x = x` becomes `ctx.save_for_backward(x)`, and `ctx.x` in backward the tensor from `ctx.saved_tensors`."""
    statement = source.statement(problem.line)
    context, name, value = _stored(statement)
    forward = source.function(statement)
    owner = next((above for above in source.ancestors(statement) if isinstance(above, cst.ClassDef)), None)
    if forward is None or owner is None:
        raise CannotEdit("the line is in no autograd function")
    backward = next(
        (item for item in source.nodes(cst.FunctionDef, owner) if item.name.value in ("backward", "vjp")), None
    )
    if backward is None or not backward.params.params:
        raise CannotEdit("the function has no backward of its own")
    if isinstance(value, cst.Tuple):
        return _tuple_saved(source, statement, forward, backward, f"{context}.{name}")
    own = value.value if isinstance(value, cst.Name) else name
    saved, changes = _saves(source, forward, statement, context, own)
    text = f"{context}.save_for_backward({', '.join(saved)})"
    if own == name and not isinstance(value, cst.Name):
        if _uses(source, forward, name):
            raise CannotEdit(f"`{name}` is a variable of its forward already")
        changes.append(source.before(statement, f"{name} = {source.code(value)}"))
    changes.append(source.replaced(statement, text))
    changes += [source.replaced(use, own) for use in _attributes(source, forward, context, name, but=statement)]
    return (*changes, *_in_backward(source, backward, name, saved))


def _tuple_saved(
    source: SourceFile, statement: cst.CSTNode, forward: cst.FunctionDef, backward: cst.FunctionDef, attribute: str
) -> tuple[Change, ...]:
    """`ctx.saved = (x, w)` becomes `ctx.save_for_backward(x, w)`, read by one unpacking in backward."""
    (small,) = statement.body  # type: ignore[attr-defined]
    context, _, name = attribute.partition(".")
    there = backward.params.params[0].name.value
    taken = [
        assign
        for assign in source.nodes(cst.Assign, backward)
        if source.code(assign.value) == f"{there}.{name}" and isinstance(assign.targets[0].target, cst.Tuple)
    ]
    reads = len(_attributes(source, backward, there, name)) + len(_attributes(source, forward, context, name)) - 1
    used = any(
        source.code(node).endswith(("save_for_backward", "saved_tensors"))
        for function in (forward, backward)
        for node in source.nodes(cst.Attribute, function)
    )
    if len(taken) != 1 or reads != 1 or used:
        raise CannotEdit("the tuple is read in more places than one")
    values = ", ".join(source.code(element.value) for element in small.value.elements)
    return (
        source.replaced(statement, f"{context}.save_for_backward({values})"),
        source.replaced(taken[0].value, f"{there}.saved_tensors"),
    )


def _stored(statement: cst.CSTNode) -> tuple[str, str, cst.BaseExpression]:
    """Context, attribute and value of `ctx.x = x`."""
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1 else None
    if isinstance(small, cst.Assign) and len(small.targets) == 1:
        target = small.targets[0].target
        if isinstance(target, cst.Attribute) and isinstance(target.value, cst.Name):
            return target.value.value, target.attr.value, small.value
    raise CannotEdit("the line is no assignment to one attribute of the context")


def _saves(
    source: SourceFile, forward: cst.FunctionDef, statement: cst.CSTNode, context: str, name: str
) -> tuple[list[str], list[Change]]:
    """What is to be saved, with what was before, and the change that takes an earlier call away."""
    calls = [
        call for call in source.nodes(cst.Call, forward) if source.code(call.func) == f"{context}.save_for_backward"
    ]
    if not calls:
        return [name], []
    line = next((above for above in source.ancestors(calls[0]) if isinstance(above, cst.SimpleStatementLine)), None)
    if len(calls) > 1 or line is None or source.parent(line) is not source.parent(statement):
        raise CannotEdit("tensors are saved for backward in another place already")
    before = [source.code(argument.value) for argument in calls[0].args]
    return [*before, name], [Change(*source.line_span(*source.lines(line)), "")]


def _in_backward(source: SourceFile, backward: cst.FunctionDef, name: str, saved: list[str]) -> list[Change]:
    context = backward.params.params[0].name.value
    body = source.block(backward)
    unpacked = _unpacking(source, backward, context)
    names = [name]
    changes: list[Change] = []
    if unpacked is not None:
        line, names_before = unpacked
        if len(names_before) != len(saved) - 1:
            raise CannotEdit("backward does not unpack all saved tensors at once")
        names = [*names_before, name]
        changes.append(source.replaced(line, f"{_tuple(names)} = {context}.saved_tensors"))
    elif len(saved) > 1:
        raise CannotEdit("it is not clear where backward takes its saved tensors from")
    uses = _attributes(source, backward, context, name)
    taken = [line for line in body if _takes(source, line, context, name)]
    if not taken and _uses(source, backward, name):
        raise CannotEdit(f"`{name}` is a variable of its backward already")
    if unpacked is None and taken:
        changes.append(source.replaced(taken[0], f"{_tuple(names)} = {context}.saved_tensors"))
    elif unpacked is None:
        first = next((line for line in body if not _is_docstring(line)), body[-1])
        changes.append(source.before(first, f"{_tuple(names)} = {context}.saved_tensors"))
    elif taken:
        changes.append(Change(*source.line_span(*source.lines(taken[0])), ""))
    skipped = {id(node) for line in taken for node in source.nodes(cst.Attribute, line)}
    return changes + [source.replaced(use, name) for use in uses if id(use) not in skipped]


def _unpacking(source: SourceFile, backward: cst.FunctionDef, context: str) -> tuple[cst.CSTNode, list[str]] | None:
    """The statement `a, b = ctx.saved_tensors` and its names."""
    for assign in source.nodes(cst.Assign, backward):
        if source.code(assign.value) == f"{context}.saved_tensors" and len(assign.targets) == 1:
            target = assign.targets[0].target
            if isinstance(target, (cst.Tuple, cst.List)):
                return assign, [source.code(element.value) for element in target.elements]
    return None


def _takes(source: SourceFile, line: cst.CSTNode, context: str, name: str) -> bool:
    return source.code(line).strip() == f"{name} = {context}.{name}"


def _attributes(
    source: SourceFile, root: cst.CSTNode, context: str, name: str, *, but: cst.CSTNode | None = None
) -> list[cst.Attribute]:
    skipped = set() if but is None else {id(node) for node in source.nodes(cst.Attribute, but)}
    return [
        node
        for node in source.nodes(cst.Attribute, root)
        if source.code(node) == f"{context}.{name}" and id(node) not in skipped
    ]


def _uses(source: SourceFile, root: cst.CSTNode, name: str) -> bool:
    return any(
        node.value == name and not isinstance(source.parent(node), cst.Attribute)
        for node in source.nodes(cst.Name, root)
    )


def _is_docstring(line: cst.CSTNode) -> bool:
    small = line.body[0] if isinstance(line, cst.SimpleStatementLine) else None
    return isinstance(small, cst.Expr) and isinstance(small.value, cst.BaseString)


def _tuple(names: list[str]) -> str:
    return f"({names[0]},)" if len(names) == 1 else ", ".join(names)

"""Values that are added up or stored: a number, a copy without history, or a copy on the host instead."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_STORE_FIRST = frozenset("append appendleft add put put_nowait push extend extendleft".split())
_STORE_LAST = frozenset("insert setdefault".split())
_LITERALS = (cst.Tuple, cst.List, cst.Set)
_NUMBERS = (cst.Integer, cst.Float, cst.UnaryOperation)
_COUNTS = frozenset("size numel len dim".split())


def store_number(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`.item()`, or `float(...)` where the value comes in as an argument and may be a number already."""

    def changed(value: cst.BaseExpression) -> tuple[Change, ...]:
        function = source.function(value)
        arguments = {item.name.value for item in source.nodes(cst.Param, function.params)} if function else set()
        given = {name.value for name in source.nodes(cst.Name, value)} & arguments
        return source.wrapped(value, "float(", ")") if given else source.suffixed(value, ".item()")

    return _change(source, problem, changed)


def store_float(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`float(...)`, which takes tensors and numbers alike."""
    return _change(source, problem, lambda value: source.wrapped(value, "float(", ")"))


def store_detached(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`.detach()` on what is stored; on the whole new value where a name is bound to a function of itself."""
    return _change(source, problem, lambda value: source.suffixed(value, ".detach()"), whole=True)


def store_detached_if_tensor(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`value.detach() if isinstance(value, torch.Tensor) else value`, where other things are stored there, too."""
    return _if_tensor(source, problem, ".detach()")


def store_on_host_if_tensor(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """The same with `.detach().cpu()`."""
    _refuse_on_host(problem)
    return _if_tensor(source, problem, ".detach().cpu()")


def store_detached_values(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """Of a dictionary, one with its tensors detached."""
    torch, imports = source.torch_name()

    def changed(value: cst.BaseExpression) -> tuple[Change, ...]:
        kept = f"value.detach() if isinstance(value, {torch}.Tensor) else value"
        return source.wrapped(value, f"{{name: {kept} for name, value in ", ".items()}")

    return (*imports, *_change(source, problem, changed, whole=True))


def store_nothing(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """The statement that stores goes, where it does nothing else and others stand beside it."""
    statement = source.statement(problem.line)
    small = statement.body[0] if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1 else None
    call = small.value if isinstance(small, cst.Expr) else None
    stores = (
        isinstance(call, cst.Call)
        and isinstance(call.func, cst.Attribute)
        and call.func.attr.value in _STORE_FIRST | _STORE_LAST
        and not any(isinstance(node, cst.Call) for item in call.args for node in source.nodes(cst.Call, item.value))
    )
    block = source.parent(statement)
    others = [item for item in (block.children if block is not None else ()) if isinstance(item, cst.BaseStatement)]
    if not stores or len(others) < 2:
        raise CannotEdit("the statement does more than store")
    return (Change(*source.line_span(*source.lines(statement)), ""),)


def store_neighbours_on_host(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`.cpu()` on what the statement stores and on what its neighbours do: outputs and labels are compared later."""
    _refuse_on_host(problem)
    statement = source.statement(problem.line)
    block = source.parent(statement)
    values: list[cst.BaseExpression] = []
    for neighbour in block.children if block is not None else ():
        small = neighbour.body[0] if isinstance(neighbour, cst.SimpleStatementLine) else None
        call = small.value if isinstance(small, cst.Expr) else None
        if isinstance(call, cst.Call) and isinstance(call.func, cst.Attribute) and call.args:
            if call.func.attr.value in _STORE_FIRST:
                values.append(call.args[0].value)
    if len(values) < 2 or any(isinstance(value, (*_LITERALS, cst.Dict)) for value in values):
        raise CannotEdit("nothing beside it is stored")
    suffix = ".detach().cpu()" if problem.graph else ".cpu()"
    left = [value for value in values if not source.code(value).endswith(".cpu()")]
    return tuple(change for value in left for change in source.suffixed(value, suffix))


def _if_tensor(source: SourceFile, problem: Problem, suffix: str) -> tuple[Change, ...]:
    torch, imports = source.torch_name()

    def changed(value: cst.BaseExpression) -> tuple[Change, ...]:
        if not isinstance(value, cst.Name):
            raise CannotEdit("what is stored there is not always a tensor")
        name = value.value
        text = f"{name}{suffix} if isinstance({name}, {torch}.Tensor) else {name}"
        return (source.replaced(value, text if isinstance(source.parent(value), cst.Arg) else f"({text})"),)

    return (*imports, *_change(source, problem, changed, whole=True))


def _refuse_on_host(problem: Problem) -> None:
    if problem.device == "cpu":
        raise CannotEdit("the tensors are on the host already; --simulate GPU tells what it would do on a GPU")


def store_on_host(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`.cpu()` on what is stored; of a model's state a dictionary of copies."""
    _refuse_on_host(problem)
    suffix = ".detach().cpu()" if problem.graph else ".cpu()"

    def changed(value: cst.BaseExpression) -> tuple[Change, ...]:
        if source.code(value).endswith(".cpu()"):
            return ()
        state = _state_dict(source, value)
        if state is None:
            return source.suffixed(value, suffix)
        copies = f'{{name: value.detach().to("cpu", copy=True) for name, value in {state}.items()}}'
        return (source.replaced(value, copies),)

    return _change(source, problem, changed)


def _change(
    source: SourceFile,
    problem: Problem,
    changed: Callable[[cst.BaseExpression], tuple[Change, ...]],
    *,
    whole: bool = False,
) -> tuple[Change, ...]:
    values = list(stored_values(source, problem, whole=whole))
    if not values:
        raise CannotEdit("it is not clear which of the values stored there are meant")
    return tuple(change for value in values for change in changed(value))


def stored_values(source: SourceFile, problem: Problem, *, whole: bool = False) -> Iterator[cst.BaseExpression]:
    """The expressions of a statement whose values stay alive.

    Args:
        source: The file.
        problem: Says the line, and the names of the tensors if known.
        whole: Of `x = x + y` give the sum, not `y`.

    Raises:
        CannotEdit: The statement stores nothing.
    """
    statement = source.statement(problem.line)
    if not isinstance(statement, cst.SimpleStatementLine):
        raise CannotEdit("the line is the head of a block and stores nothing itself")
    kept = [value for small in statement.body for value in _kept(source, problem, small, whole)]
    if not kept:
        raise CannotEdit("the statement stores nothing that an edit could change")
    for value in kept:
        yield from _elements(source, problem, value)


def _kept(
    source: SourceFile, problem: Problem, small: cst.BaseSmallStatement, whole: bool
) -> Iterator[cst.BaseExpression]:
    if isinstance(small, cst.AugAssign):
        yield _without_factor(source, small.value)
    elif isinstance(small, (cst.Assign, cst.AnnAssign)) and small.value is not None:
        targets = [item.target for item in small.targets] if isinstance(small, cst.Assign) else [small.target]
        if any(isinstance(target, _LITERALS) for target in targets):
            raise CannotEdit("the statement binds several names at once")
        itself = {source.code(target) for target in targets}
        terms = [] if whole else list(_other_terms(source, small.value, itself))
        yield from [_without_factor(source, term) for term in terms] or [small.value]
    elif isinstance(small, cst.Expr) and isinstance(small.value, cst.Call):
        yield from _arguments(source, problem, small.value)


def _other_terms(source: SourceFile, value: cst.BaseExpression, itself: set[str]) -> Iterator[cst.BaseExpression]:
    """The terms of a sum that has the target itself as a term; nothing where the value is no such sum."""
    terms: list[cst.BaseExpression] = []
    stack = [value]
    while stack:
        term = stack.pop()
        if isinstance(term, cst.BinaryOperation) and isinstance(term.operator, (cst.Add, cst.Subtract)):
            stack += [term.left, term.right]
        else:
            terms.append(term)
    others = [term for term in terms if source.code(term) not in itself]
    if len(others) < len(terms):
        yield from (term for term in others if not isinstance(term, _NUMBERS))


def _without_factor(source: SourceFile, term: cst.BaseExpression) -> cst.BaseExpression:
    """The tensor in `loss * 0.5`, `loss / len(loader)`, `loss * images.size(0)`; else the term."""
    if isinstance(term, cst.BinaryOperation) and not term.lpar:
        if isinstance(term.operator, (cst.Multiply, cst.Divide)) and _is_number(source, term.right):
            return _without_factor(source, term.left)
        if isinstance(term.operator, cst.Multiply) and _is_number(source, term.left):
            return _without_factor(source, term.right)
    return term


def _is_number(source: SourceFile, node: cst.BaseExpression) -> bool:
    if isinstance(node, _NUMBERS):
        return True
    if isinstance(node, cst.Call):
        called = node.func.attr.value if isinstance(node.func, cst.Attribute) else source.code(node.func)
        return called in _COUNTS
    return False


def _arguments(source: SourceFile, problem: Problem, call: cst.Call) -> Iterator[cst.BaseExpression]:
    method = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
    values = [argument.value for argument in call.args if not argument.star]
    if method in _STORE_FIRST and values:
        yield values[0]
    elif method in _STORE_LAST and values:
        yield values[-1]
    elif len(values) == 1:
        yield values[0]
    else:
        named = [value for value in values if _mentions(source, problem, value)]
        if len(named) != 1:
            raise CannotEdit("it is not clear which of the arguments is kept")
        yield from named


def _elements(source: SourceFile, problem: Problem, value: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """What to change in a value: the elements of a literal that hold the tensors, else the value."""
    if isinstance(value, (*_LITERALS, cst.Dict)):
        yield from _meant(source, problem, [item.value for item in value.elements])
    elif isinstance(value, (cst.ListComp, cst.GeneratorExp, cst.SetComp)):
        yield from _elements(source, problem, value.elt)
    elif isinstance(value, cst.DictComp):
        yield from _elements(source, problem, value.value)
    elif isinstance(value, cst.Call) and _is_record(source, value):
        yield from _meant(source, problem, [item.value for item in value.args])
    elif isinstance(value, (cst.SimpleString, cst.Integer, cst.Float)) or source.code(value) in ("None", "True"):
        raise CannotEdit("what is stored there is a constant")
    elif isinstance(value, cst.Call) and source.code(value).endswith((".item()", ".detach()", ".cpu()")):
        if source.code(value).endswith(".item()") or problem.slug != "move_to_cpu":
            raise CannotEdit(f"`{source.code(value)}` has been detached already")
        yield value
    else:
        yield value


def _meant(source: SourceFile, problem: Problem, items: list[cst.BaseExpression]) -> Iterator[cst.BaseExpression]:
    named = [item for item in items if _mentions(source, problem, item)]
    if not named:
        named = [item for item in items if _is_output(source, problem, item)]
        named = named if len(named) == 1 else []
    if not named:
        named = [item for item in items if isinstance(item, (cst.Call, *_LITERALS, cst.Dict))]
        if len(named) != 1:
            named = [] if len(items) != 1 else items
    for item in named:
        yield from _elements(source, problem, item)


def _mentions(source: SourceFile, problem: Problem, node: cst.BaseExpression) -> bool:
    """Whether an expression names the tensors, or is a call on the line that made them."""
    if any(name.value in problem.made for name in source.nodes(cst.Name, node)):
        return True
    if problem.made_line is None or problem.made_line == problem.line:
        return False
    first, last = source.lines(node)
    return first <= problem.made_line <= last


def _is_output(source: SourceFile, problem: Problem, node: cst.BaseExpression) -> bool:
    """Whether a name is bound, before the line and in its function, to what a module returned: `q = policy(obs)`."""
    if not isinstance(node, cst.Name):
        return False
    bound = [
        assign
        for assign in source.nodes(cst.Assign, source.scope(node))
        if source.lines(assign)[0] < problem.line
        and any(source.code(item.target) == node.value for item in assign.targets)
    ]
    value = bound[-1].value if bound else None
    if not isinstance(value, cst.Call) or not value.args:
        return False
    head, _, last = source.code(value.func).rpartition(".")
    return (not head or head == "self") and last.isidentifier() and not hasattr(builtins, last) and last[0].islower()


def _is_record(source: SourceFile, call: cst.Call) -> bool:
    """Whether a call makes an object of a class, by its name: `Record(loss=loss, step=step)`."""
    name = call.func.attr.value if isinstance(call.func, cst.Attribute) else source.code(call.func)
    return len(call.args) > 1 and name[:1].isupper()


def _state_dict(source: SourceFile, value: cst.BaseExpression) -> str | None:
    """`model.state_dict()` in `copy.deepcopy(model.state_dict())` or by itself."""
    if not isinstance(value, cst.Call):
        return None
    name = value.func.attr.value if isinstance(value.func, cst.Attribute) else source.code(value.func)
    if name == "state_dict":
        return source.code(value)
    if name in ("deepcopy", "copy", "dict", "OrderedDict") and len(value.args) == 1:
        return _state_dict(source, value.args[0].value)
    return None

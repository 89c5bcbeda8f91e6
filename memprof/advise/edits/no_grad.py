"""Autograd turned off around what no backward uses."""

from __future__ import annotations

import libcst as cst

from memprof.advise.edits.changes import CannotEdit, Change
from memprof.advise.edits.problem import Problem
from memprof.advise.edits.source import SourceFile

_USES_AUTOGRAD = frozenset({"backward", "grad", "backward_step", "manual_backward"})
_CONTEXTS = ("no_grad()", "inference_mode()", "set_grad_enabled(")


def without_autograd(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """A decorator on the function where all of it does without autograd, else a block around loop or statement."""
    statement = source.statement(problem.line)
    function = source.function(statement)
    torch, imports = source.torch_name()
    if function is not None and not _trains(source, function):
        if any(_is_context(source, item.decorator) for item in function.decorators):
            return ()
        return (*imports, source.before(function, f"@{torch}.no_grad()"))
    if _is_under_context(source, statement):
        return ()
    around: cst.CSTNode = statement
    for loop in source.loops(statement):
        if _trains(source, loop):
            break
        around = loop
    return (*imports, *_under(source, around, f"with {torch}.no_grad():"))


def statement_without_autograd(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`with torch.no_grad():` around the one statement."""
    statement = source.statement(problem.line)
    if _is_under_context(source, statement):
        raise CannotEdit("autograd is off there already")
    torch, imports = source.torch_name()
    return (*imports, *_under(source, statement, f"with {torch}.no_grad():"))


def without_autograd_in_eval(source: SourceFile, problem: Problem) -> tuple[Change, ...]:
    """`with torch.set_grad_enabled(model.training):` around a statement that serves training and evaluation."""
    statement = source.statement(problem.line)
    if _is_under_context(source, statement):
        raise CannotEdit("autograd is set around the statement already")
    torch, imports = source.torch_name()
    model = model_called(source, statement)
    return (*imports, *_under(source, statement, f"with {torch}.set_grad_enabled({model}.training):"))


def autograd_is_off(source: SourceFile, line: int) -> bool:
    """Whether a line stands under `torch.no_grad()` or the like, in a block or by a decorator of its function."""
    try:
        return _is_under_context(source, source.statement(line), off=True)
    except CannotEdit:
        return False


def model_called(source: SourceFile, statement: cst.CSTNode) -> str:
    """The expression that a statement calls as a model: `model`, `self.net`.

    Raises:
        CannotEdit: There is none, or several.
    """
    called = [call for call in source.nodes(cst.Call, statement) if isinstance(call.func, (cst.Name, cst.Attribute))]
    models = dict.fromkeys(source.code(call.func) for call in called if _is_model(source, call))
    if len(models) != 1:
        raise CannotEdit("it is not clear which call on the line is that of the model")
    return next(iter(models))


def _under(source: SourceFile, node: cst.CSTNode, header: str) -> tuple[Change, ...]:
    if isinstance(node, (cst.For, cst.While, cst.SimpleStatementLine, cst.With)):
        if isinstance(node, cst.SimpleStatementLine) and any(
            isinstance(small, (cst.Import, cst.ImportFrom)) for small in node.body
        ):
            raise CannotEdit("the line imports something")
        return source.under(node, node, header)
    raise CannotEdit("the line is the head of a block that also does other things")


def _trains(source: SourceFile, node: cst.CSTNode) -> bool:
    """Whether a backward is asked for somewhere in a node."""
    return any(
        isinstance(call.func, cst.Attribute) and call.func.attr.value in _USES_AUTOGRAD
        for call in source.nodes(cst.Call, node)
    )


def _is_context(source: SourceFile, node: cst.BaseExpression) -> bool:
    text = source.code(node)
    return any(context in text for context in _CONTEXTS) or text.endswith((".no_grad", ".inference_mode"))


def _is_under_context(source: SourceFile, node: cst.CSTNode, *, off: bool = False) -> bool:
    """Whether autograd is set around a node; with `off`, whether it is off there for certain."""
    for above in source.ancestors(node):
        contexts: list[cst.BaseExpression] = []
        if isinstance(above, cst.FunctionDef):
            contexts = [item.decorator for item in above.decorators]
        elif isinstance(above, cst.With):
            contexts = [item.item for item in above.items]
        found = [item for item in contexts if _is_context(source, item)]
        if found or isinstance(above, cst.FunctionDef):
            return bool(found) and not (off and any("set_grad_enabled" in source.code(item) for item in found))
    return False


def _is_model(source: SourceFile, call: cst.Call) -> bool:
    """Whether a call may be that of a module: `model(x)`, `self.net(x)`; not `x.view(...)`, `F.relu(...)`."""
    text = source.code(call.func)
    head, _, last = text.rpartition(".")
    return bool(call.args) and (not head or head.startswith("self")) and not last[:1].isupper() and last not in _BUILTIN


_BUILTIN = frozenset("print len float int list tuple dict zip enumerate range sum min max abs round".split())

"""Loops that train or evaluate as a condition says, and which condition that is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from memprof.lint.context import Context
from memprof.lint.names import inside, is_backward, is_constant, is_name
from memprof.lint.program import FunctionInfo, Loop

_MODE_NAME = re.compile("train|phase|mode|split|stage|optim|opt$|learn|update|fit")
"""In names that say whether a model is trained."""


def other_mode(context: Context, function: FunctionInfo, loop: Loop, call: ast.Call) -> ast.expr | None:
    """The condition under which a loop runs its backward passes, if it certainly runs without as well.

    Args:
        context: What is known.
        function: Where the loop is.
        loop: A training loop.
        call: Runs the model, whatever the condition says.
    """
    conditions = [_condition(function, loop, item) for item in inside(loop) if _trains(context, item)]
    condition = conditions[0] if conditions else None
    if condition is None or any(one is None or ast.dump(one) != ast.dump(condition) for one in conditions):
        return None
    if any(ast.dump(one) == ast.dump(condition) for one in _tests_around(function, loop, call)):
        return None
    held = [*_false_for_a_caller(context, function, condition), *_false_in_a_turn(function, loop, condition)]
    return condition if any(held) or _sets_the_mode(function, condition) else None


def _trains(context: Context, node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return is_backward(node) or any(callee in context.flow.trains for callee in context.flow.callees(node))


def _tests_around(function: FunctionInfo, loop: Loop, node: ast.AST) -> Iterator[ast.expr]:
    """The conditions inside a loop that must hold where a node runs, innermost first."""
    below = node
    for parent in function.module.parents_of(node):
        if parent is loop:
            return
        if isinstance(parent, ast.If) and below in parent.body:
            yield parent.test
        below = parent


def _condition(function: FunctionInfo, loop: Loop, node: ast.AST) -> ast.expr | None:
    """The outermost condition inside a loop that a node runs under, if it asks for a mode and not for a batch."""
    tests = list(_tests_around(function, loop, node))
    asked = _asked(tests[-1]) if tests else None
    return tests[-1] if asked is not None and _MODE_NAME.search(asked.id.lower()) else None


def _asked(test: ast.expr) -> ast.Name | None:
    """The name that `train`, `optimizer is not None`, and `phase == "train"` ask for."""
    if isinstance(test, ast.Name):
        return test
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.comparators[0], ast.Constant):
        wanted = (ast.IsNot, ast.NotEq) if is_constant(test.comparators[0], None) else (ast.Eq, ast.Is)
        if isinstance(test.ops[0], wanted) and isinstance(test.left, ast.Name):
            return test.left
    return None


def _is_false_for(test: ast.expr, value: ast.expr | None) -> bool:
    """Whether a condition does not hold for a literal that its name stands for."""
    if not isinstance(value, ast.Constant):
        return False
    if isinstance(test, ast.Name):
        return not value.value
    if isinstance(test, ast.Compare) and isinstance(test.comparators[0], ast.Constant):
        wanted = test.comparators[0].value
        return value.value is None if wanted is None else value.value != wanted
    return False


def _false_for_a_caller(context: Context, function: FunctionInfo, condition: ast.expr) -> Iterator[bool]:
    """For each caller, whether what it passes says that nothing is trained."""
    asked = _asked(condition)
    if asked is None or asked.id not in {item.arg for item in function.parameters}:
        return
    for site in function.sites:
        passed = context.flow.argument(function, site.call, asked.id)
        spread = any(isinstance(item, ast.Starred) for item in site.call.args) or any(
            item.arg is None for item in site.call.keywords
        )
        if passed is None and not spread:
            passed = function.default(asked.id)
        yield _is_false_for(condition, passed)


def _false_in_a_turn(function: FunctionInfo, loop: Loop, condition: ast.expr) -> Iterator[bool]:
    """For each turn of `for phase in ("train", "val")` around a loop, whether it does not train."""
    asked = _asked(condition)
    for around in function.module.loops_of(loop):
        if asked is not None and isinstance(around, ast.For) and is_name(around.target, asked.id):
            if isinstance(around.iter, (ast.List, ast.Tuple)):
                for item in around.iter.elts:
                    yield _is_false_for(condition, item)


def _sets_the_mode(function: FunctionInfo, condition: ast.expr) -> bool:
    """Whether the same condition decides between `net.train()` and `net.eval()`: `net.train(train)`."""
    for call in function.calls:
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in ("train", "eval"):
            continue
        if any(ast.dump(item) == ast.dump(condition) for item in call.args):
            return True
        for parent in function.module.parents_of(call):
            if isinstance(parent, ast.If) and ast.dump(parent.test) == ast.dump(condition) and parent.orelse:
                if call.func.attr == "eval":
                    return True
    return False

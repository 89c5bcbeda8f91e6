"""Conditions that ask what a value is."""

from __future__ import annotations

import ast
from collections.abc import Callable


def tensor_asked(test: ast.expr, qualified: Callable[[ast.AST], str]) -> ast.expr | None:
    """The expression of which a condition asks whether it is a tensor, or one with a graph."""
    if isinstance(test, ast.Attribute) and test.attr == "requires_grad":
        return test.value
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Attribute) and test.left.attr == "grad_fn":
        return test.left.value
    if not isinstance(test, ast.Call) or not test.args:
        return None
    called = qualified(test.func)
    if called == "torch.is_tensor":
        return test.args[0]
    if called == "isinstance" and len(test.args) == 2:
        kinds = test.args[1].elts if isinstance(test.args[1], ast.Tuple) else [test.args[1]]
        if any(qualified(kind).rpartition(".")[2] in ("Tensor", "Variable") for kind in kinds):
            return test.args[0]
    if called == "hasattr" and len(test.args) == 2 and isinstance(test.args[1], ast.Constant):
        if test.args[1].value in ("item", "detach", "cpu", "requires_grad", "grad_fn"):
            return test.args[0]
    return None

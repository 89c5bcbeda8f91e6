"""Layers that are built and never used: MP212."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from memprof.lint.checks.modules import is_new_layer
from memprof.lint.context import Context
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.names import path_of
from memprof.lint.program import ClassInfo, SourceModule
from memprof.lint.values import Kind
from memprof.lint.vocabulary import MODULE_CONTAINERS

_BY_NAME = frozenset(
    "getattr children modules named_children named_modules _modules __dict__ get_submodule __getattr__ vars".split()
)
"""What reaches layers without naming them."""


def check(context: Context) -> Iterator[LintFinding]:
    """Find them."""
    candidates = [cls for cls in context.program.classes if _is_whole(context, cls)]
    if not candidates:
        return
    mentioned: Counter[str] = Counter()
    for module in context.program.modules:
        mentioned.update(_mentions(module))
    for cls in candidates:
        start = cls.methods["__init__"]
        for statement in start.statements:
            if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
                continue
            target = statement.targets[0]
            if not isinstance(target, ast.Attribute) or path_of(target.value) != start.self_name:
                continue
            if mentioned[target.attr] or not _is_layer(context, statement.value):
                continue
            message = (
                f"`self.{target.attr}` is built and nothing uses it: its parameters take memory, and never get a "
                "gradient. Leave it out."
            )
            yield context.finding(start, statement, "MP212", message, "drop_module", Confidence.MEDIUM)


def _is_whole(context: Context, cls: ClassInfo) -> bool:
    """Whether a module shows all uses of its layers: it has a forward, is made here, and names what it calls."""
    if not context.program.is_module_class(cls) or not {"__init__", "forward"} <= set(cls.methods):
        return False
    if not any(site.caller.cls is not cls for site in cls.methods["__init__"].sites):
        return False
    words = {item.attr for item in ast.walk(cls.node) if isinstance(item, ast.Attribute)}
    words |= {item.id for item in ast.walk(cls.node) if isinstance(item, ast.Name)}
    return not words & _BY_NAME


def _mentions(module: SourceModule) -> Iterator[str]:
    """Attributes that are read, and words in strings, which may be names of layers."""
    for item in ast.walk(module.tree):
        if isinstance(item, ast.Attribute) and not isinstance(item.ctx, ast.Store):
            yield item.attr
        elif isinstance(item, ast.Constant) and isinstance(item.value, str) and len(item.value) < 200:
            yield from item.value.replace(".", " ").split()


def _is_layer(context: Context, node: ast.expr) -> bool:
    """A new layer with parameters, or a container of such; one of layers that come from elsewhere only lists them."""
    value = context.value(node)
    if isinstance(node, ast.Call) and path_of(node.func).rpartition(".")[2] in MODULE_CONTAINERS:
        inner = [item for argument in node.args for item in ast.walk(argument) if isinstance(item, ast.Call)]
        return any(is_new_layer(context, item) for item in inner)
    return value.kind is Kind.MODULE and not value.loss and is_new_layer(context, node)

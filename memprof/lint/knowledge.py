"""What is learnt of a program."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from memprof.lint.program import FunctionInfo, Site
from memprof.lint.values import Value, join


@dataclass(slots=True)
class Knowledge:
    """What is known of a program.

    Attributes:
        values: Value of each expression.
        grad: Whether autograd was on at each call and statement; None: as a variable says.
        passed: By caller, what it passes to which parameter of which function.
        called: By caller, which functions it calls, and where.
        hooks: Functions given to `register_forward_hook`, and where.
        evaluating: Functions that evaluate, by their name or because all their callers do.
        ends: What each function returned and left behind when it was last followed.
        grad_off: A module turns autograd off for good.
    """

    values: dict[ast.AST, Value] = field(default_factory=dict)
    grad: dict[ast.AST, bool | None] = field(default_factory=dict)
    passed: dict[FunctionInfo, dict[tuple[FunctionInfo, str], Value]] = field(default_factory=dict)
    called: dict[FunctionInfo, dict[tuple[ast.Call, FunctionInfo], Site]] = field(default_factory=dict)
    hooks: dict[FunctionInfo, FunctionInfo] = field(default_factory=dict)
    evaluating: set[FunctionInfo] = field(default_factory=set)
    ends: dict[FunctionInfo, tuple[Value, dict[str, Value]]] = field(default_factory=dict)
    grad_off: bool = False

    def forget(self, caller: FunctionInfo) -> None:
        """Begin anew with what a function passes on."""
        self.passed[caller] = {}
        self.called[caller] = {}
        self.evaluating.discard(caller)

    def gathered(self) -> tuple[dict[FunctionInfo, dict[str, Value]], dict[FunctionInfo, list[Site]]]:
        """Arguments of each function over all callers, and where it is called."""
        arguments: dict[FunctionInfo, dict[str, Value]] = {}
        for passed in self.passed.values():
            for (function, name), value in passed.items():
                kept = arguments.setdefault(function, {})
                kept[name] = join(kept[name], value) if name in kept else value
        sites: dict[FunctionInfo, list[Site]] = {}
        for called in self.called.values():
            for (_, function), site in called.items():
                sites.setdefault(function, []).append(site)
        return arguments, sites

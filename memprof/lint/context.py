"""What the checks are given, and how they answer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePath

from memprof.lint.codes import lint_rule
from memprof.lint.finding import Confidence, LintFinding
from memprof.lint.flow import Flow
from memprof.lint.knowledge import Knowledge
from memprof.lint.program import FunctionInfo, Program
from memprof.lint.values import UNKNOWN, Value


class Context:
    """One program with all that was learnt of it.

    Args:
        program: All files.
        knowledge: Their values.
    """

    def __init__(self, program: Program, knowledge: Knowledge) -> None:
        self.program = program
        self.knowledge = knowledge
        self.flow = Flow(program, knowledge)

    def value(self, node: ast.AST | None) -> Value:
        """Value of an expression."""
        return self.flow.value(node)

    def value_of_parameter(self, function: FunctionInfo, name: str) -> Value:
        """What callers pass to a function for a parameter."""
        return function.arguments.get(name, UNKNOWN)

    def calls(self, *names: str) -> Iterator[tuple[FunctionInfo, ast.Call]]:
        """Calls of functions by their dotted names."""
        for function in self.program.functions:
            for call in function.calls:
                if function.module.qualified(call.func) in names:
                    yield function, call

    @staticmethod
    def is_test(function: FunctionInfo) -> bool:
        """Whether a function is a test, or stands beside some: it runs a few iterations and is done."""
        if function.name.startswith("test_"):
            return True
        beside = any(other.name.startswith("test_") for other in function.module.every_function)
        return beside and PurePath(function.module.path).name.startswith(("test_", "conftest"))

    def finding(
        self,
        function: FunctionInfo,
        node: ast.stmt | ast.expr | ast.ExceptHandler,
        code: str,
        message: str,
        remedy: str,
        confidence: Confidence = Confidence.HIGH,
    ) -> LintFinding:
        """A finding at a node.

        Args:
            function: Where the node is.
            node: What the user would change.
            code: Code of the rule.
            message: What is wrong, who holds it, the next step.
            remedy: Slug.
            confidence: How sure it is.
        """
        return LintFinding(
            file=function.module.path,
            line=node.lineno,
            column=node.col_offset + 1,
            end_line=node.end_lineno or node.lineno,
            end_column=(node.end_col_offset or node.col_offset) + 1,
            code=code,
            message=message,
            remedy=remedy,
            confidence=confidence,
            name=lint_rule(code).name,
        )


def sure(*values: Value) -> Confidence:
    """High, or medium where a value rests on a guess."""
    return Confidence.MEDIUM if any(value.guessed for value in values) else Confidence.HIGH


def shown(node: ast.AST, limit: int = 60) -> str:
    """An expression as text on one line."""
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."

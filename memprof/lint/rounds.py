"""Follows values through all functions of a program, round by round, until nothing new is learnt."""

from __future__ import annotations

from memprof.lint.interpret import Interpreter
from memprof.lint.knowledge import Knowledge
from memprof.lint.program import ClassInfo, FunctionInfo, Program
from memprof.lint.values import join

_ROUNDS = 5
"""Rounds over the program: what a helper's helper returns is known in the third."""


def interpret(program: Program) -> Knowledge:
    """Find the values of all expressions of a program.

    Args:
        program: All files; what is learnt of functions and classes is written into them.

    Returns:
        What was known in the last round.
    """
    knowledge = Knowledge()
    concerned = set(program.functions)
    for _ in range(_ROUNDS):
        for function in program.functions:
            if function in concerned:
                knowledge.forget(function)
                Interpreter(program, function, knowledge).run()
        latest = _Learnt(program, knowledge)
        concerned = latest.concerned
        if not concerned:
            break
    return knowledge


class _Learnt:
    """What a round has changed, handed on to functions and classes.

    Attributes:
        concerned: Functions that something new is known for.
    """

    def __init__(self, program: Program, knowledge: Knowledge) -> None:
        changed: set[FunctionInfo] = set()
        returning: set[FunctionInfo] = set()
        arguments, sites = knowledge.gathered()
        for function in program.functions:
            known = arguments.get(function, {})
            modes = [(site.grad, site.evaluating) for site in sites.get(function, ())]
            if known != function.arguments or modes != [(site.grad, site.evaluating) for site in function.sites]:
                changed.add(function)
            function.arguments, function.sites = known, sites.get(function, [])
            end = (function.returns, function.environment)
            if end != knowledge.ends.get(function):
                returning.add(function)
                knowledge.ends[function] = end
        for cls in program.classes:
            before = cls.attributes
            _gather_attributes(cls)
            if before != cls.attributes:
                changed |= set(cls.methods.values())
                returning |= set(cls.methods.values())
        bodies = {function.module for function in returning if function is function.module.body}
        self.concerned = changed | {site.caller for function in returning for site in function.sites}
        self.concerned |= {
            function
            for function in program.functions
            if function.outer in returning or (function.module in bodies and function is not function.module.body)
        }


def _gather_attributes(cls: ClassInfo) -> None:
    cls.attributes = dict(cls.fields)
    for method in cls.methods.values():
        own = method.self_name
        for path, value in method.environment.items() if own else ():
            owner, _, name = path.partition(".")
            if owner == own and name and "." not in name:
                known = cls.attributes.get(name)
                cls.attributes[name] = value if known is None else join(known, value)

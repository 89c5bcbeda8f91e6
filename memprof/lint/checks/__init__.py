"""The static checks, a module a family. A check takes what is known of a program and gives findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from memprof.lint.checks import (
    accumulators,
    backward,
    containers,
    evaluation,
    functions,
    gathered,
    generators,
    leftovers,
    modules,
    networks,
    recurrent,
    switches,
    unused,
)
from memprof.lint.context import Context
from memprof.lint.finding import LintFinding

CHECKS: tuple[Callable[[Context], Iterator[LintFinding]], ...] = (
    accumulators.check,
    containers.check,
    gathered.check,
    recurrent.check,
    backward.check,
    functions.check,
    evaluation.check,
    networks.check,
    generators.check,
    switches.check,
    leftovers.check,
    modules.check,
    unused.check,
)

__all__ = ["CHECKS"]

"""The static check: what eats memory, as far as the source alone can tell, without running it.

It gives the codes of the rules for recorded runs, with a confidence of its own. It needs no torch.
"""

from __future__ import annotations

from memprof.lint.codes import LINT_RULES, LintRule, lint_rule
from memprof.lint.finding import Confidence, LintFinding, Unreadable
from memprof.lint.options import LintOptions, read_options
from memprof.lint.run import LintResult, check_paths, lint_paths

__all__ = [
    "LINT_RULES",
    "Confidence",
    "LintFinding",
    "LintOptions",
    "LintResult",
    "LintRule",
    "Unreadable",
    "check_paths",
    "lint_paths",
    "lint_rule",
    "read_options",
]

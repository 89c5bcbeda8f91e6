"""Training code in pieces, for tests of the static check."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from memprof.lint import Confidence, LintFinding, LintOptions
from memprof.lint.files import SourceFile
from memprof.lint.run import check_sources

HEAD = """\
import copy
import functools
import queue
from collections import defaultdict, deque

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

"""

SETUP = """\
device = "cuda"
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)).to(device)
criterion = nn.MSELoss()
optimizer = torch.optim.Adam(model.parameters())
loader = DataLoader(data, batch_size=4)
"""


def program(text: str, *, setup: bool = True) -> str:
    """A script: imports, a model with its optimizer and loader, and then some text."""
    return HEAD + (SETUP if setup else "") + textwrap.dedent(text)


def findings(
    text: str,
    *,
    setup: bool = True,
    confidence: Confidence = Confidence.MEDIUM,
    others: Iterable[tuple[str, str]] = (),
) -> list[LintFinding]:
    """What is found in a piece, and in other files beside it."""
    files = [SourceFile("train.py", program(text, setup=setup))]
    files += [SourceFile(path, textwrap.dedent(source)) for path, source in others]
    result = check_sources(files, LintOptions(confidence=confidence))
    assert result.unreadable == ()
    return list(result.findings)


def lines(text: str, found: Iterable[LintFinding], *, setup: bool = True) -> list[tuple[str, str]]:
    """Code and source line of each finding in `train.py`."""
    source = program(text, setup=setup).splitlines()
    return [(item.code, source[item.line - 1].strip()) for item in found if item.file == "train.py"]

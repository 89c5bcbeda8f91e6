"""`memprof analyze` reports the same of the corpus on a CUDA device: same codes, same lines, and no more.

The device is always the one without processors: values are never right on it, and nothing reported may depend on them.
"""

from __future__ import annotations

import pytest

from tests.corpus.labels import load
from tests.corpus.runner import Runner
from tests.corpus.score import score, table
from tests.corpus.tools import as_result


@pytest.mark.slow
def test_findings_hold_on_cuda() -> None:
    scripts = tuple(script for script in load() if script.runs_on("cuda"))
    with Runner(device="cuda") as runner:
        runs = tuple(runner.map(runner.analyze, scripts))

    whole = score(scripts, map(as_result, scripts, runs))

    said = "\n".join([table(whole), *whole.problems])
    assert whole.failures == [], said
    assert whole.below() == [], said

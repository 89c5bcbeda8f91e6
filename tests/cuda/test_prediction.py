"""What a simulated GPU says of a workload is what CUDA's own allocator says, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.cuda.conftest import OnCuda
from tests.zygote import REPOSITORY

EXACT = ("mlp_sgd", "mlp_adam", "gan", "gpt_tiny", "grad_accumulation", "side_stream", "empty_cache", "lstm_native")
KEYS = ("allocated", "peak allocated", "reserved", "peak reserved")


def real(name: str) -> dict[str, Any]:
    """Run a workload on CUDA."""
    from benchmarks.prediction import run_workload

    return run_workload(name, "cuda", 0)


def simulated(name: str, total: int) -> dict[str, Any]:
    """Run it with the same torch where no CUDA device can be seen."""
    command = [sys.executable, "-m", "benchmarks.prediction", name, "--run", "simulated", "--total", str(total)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", EXACT)
def test_a_simulated_run_takes_what_cuda_takes(on_cuda: OnCuda, name: str) -> None:
    # A size asks for the null device: a real GPU's cuDNN may take workspaces of its own.
    there = on_cuda(real, memory="40G", timeout_s=120, name=name)
    here = simulated(name, there["total"])
    named = [[dict(zip(KEYS, row, strict=True)) for row in side["rows"]] for side in (here, there)]
    assert named[0] == named[1]

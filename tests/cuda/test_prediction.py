"""What a simulated GPU says of a workload is what CUDA's own allocator says, to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import cycle
from typing import Any

import pytest

from tests.cuda.conftest import OnCuda
from tests.zygote import REPOSITORY

EXACT = (
    "mlp_sgd",
    "mlp_adam",
    "gan",
    "gpt_tiny",
    "grad_accumulation",
    "side_stream",
    "empty_cache",
    "lstm_native",
    "transformer_encoder",
)
KEYS = ("allocated", "peak allocated", "reserved", "peak reserved")


def real(name: str) -> dict[str, Any]:
    """Run a workload on CUDA."""
    from benchmarks.prediction import run_workload

    return run_workload(name, "cuda", 0)


def simulated(name: str, total: int, *, dry: bool = False) -> dict[str, Any]:
    """Run it with the same torch where no CUDA device can be seen."""
    where = "dry" if dry else "simulated"
    command = [sys.executable, "-m", "benchmarks.prediction", name, "--run", where, "--total", str(total)]
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


def named(run: dict[str, Any]) -> list[dict[str, int]]:
    """Figures of each device by their names, after setup and after each iteration."""
    return [
        {
            f"{key} of cuda:{at // len(KEYS)}": value
            for at, (key, value) in enumerate(zip(cycle(KEYS), row, strict=False))
        }
        for row in run["rows"]
    ]


@pytest.mark.parametrize("name", EXACT)
def test_a_simulated_run_takes_what_cuda_takes(on_cuda: OnCuda, name: str) -> None:
    # A size asks for the null device: a real GPU's cuDNN may take workspaces of its own.
    there = on_cuda(real, memory="40G", timeout_s=120, name=name)
    assert named(simulated(name, there["total"])) == named(there)


def test_a_model_over_two_devices_takes_on_each_what_cuda_takes(on_cuda: OnCuda) -> None:
    there = on_cuda(real, memory="40G", devices=2, timeout_s=120, name="model_parallel")
    here = named(simulated("model_parallel", there["total"], dry=True))
    assert "reserved of cuda:1" in here[0]
    assert here == named(there)


def test_data_parallel_takes_on_each_device_what_cuda_takes(on_cuda: OnCuda) -> None:
    there = named(on_cuda(real, memory="40G", devices=2, timeout_s=120, name="data_parallel"))
    here = named(simulated("data_parallel", 40 << 30, dry=True))
    # Threads come and go: which of them finds a cuBLAS handle that another has given back is chance.
    one_handle = 9 << 20
    for row, expected in zip(here, there, strict=True):
        for key, nbytes in expected.items():
            assert row[key] == pytest.approx(nbytes, abs=2 * one_handle if nbytes else 0), key
